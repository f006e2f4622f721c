"""Training: what is learnt, refused and reported; the same every time."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from compress.errors import InputError
from router import Prompt, Router, RouterSettings, load_router, save_router, train_router
from router.classifiers import CLASSIFIER_KINDS, ClassifierKind
from router.features import FEATURE_KINDS, FeatureKind
from router.novelty import task_thresholds
from router.selection import cross_fit
from router.train import fit, held_out
from tests import tiny
from tests.router.conftest import FINGERPRINT, Trained
from tests.router.prompts import TASKS, prompts

QUICK = {"features": ("embedding",), "classifiers": ("logistic",)}


def train(labelled: list[Prompt], tasks: list[str] = TASKS, **settings: Any) -> tuple[Router, dict[str, Any]]:
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    return train_router(model, tokenizer, labelled, tasks, RouterSettings(**{**QUICK, **settings}))


def arrays(router: Router) -> dict[str, np.ndarray]:
    assert router.novelty is not None
    found = {**router.classifier.arrays(), "weight": router.scaling.weight}
    return {**found, "references": router.novelty.references, "owner": router.novelty.owner}


@pytest.mark.parametrize("tasks", [TASKS, TASKS[:2], TASKS[:1]])
def test_a_router_learns_and_reports(tasks: list[str]) -> None:
    router, report = train(prompts(tasks, 60), tasks, features=RouterSettings().features)
    assert router.tasks == tuple(tasks) and router.report == report
    assert len(router.settings.features) == len(router.settings.classifiers) == 1
    assert report["accuracy"] >= 0.95 and report["ece"] <= 0.1 and report["nll"] <= 0.2
    assert report["false_rejection"] <= 0.1 and report["below_threshold"] <= 0.1
    assert report["counts"] == {"train": dict.fromkeys(tasks, 51), "test": dict.fromkeys(tasks, 9)}
    assert report["dropped"] == {"duplicates": 0, "conflicts": 0}
    assert np.array(report["confusion"]).sum(axis=1).tolist() == [9] * len(tasks)
    assert list(report["tasks"]) == tasks
    (chosen,) = [row for row in report["comparison"] if row["chosen"]]
    assert (chosen["features"],) == router.settings.features
    assert (chosen["classifier"],) == router.settings.classifiers
    assert report["reason"].startswith(f"{chosen['features']} features with {chosen['classifier']}")
    assert set(report) == {
        "counts", "dropped", "comparison", "reason", "accuracy", "ece", "nll", "false_rejection",
        "below_threshold", "tasks", "confusion", "reliability", "abstention",
    }  # fmt: skip


def test_only_what_was_asked_for_is_compared() -> None:
    _, report = train(
        prompts(TASKS, 12), features=("tfidf", "hidden"), classifiers=("mlp", "prototypes"), layer=2
    )
    compared = [(row["features"], row["classifier"]) for row in report["comparison"]]
    assert compared == [("tfidf", "prototypes"), ("hidden", "mlp"), ("hidden", "prototypes")]


@pytest.mark.parametrize("classifier", CLASSIFIER_KINDS)
@pytest.mark.parametrize("features", FEATURE_KINDS)
def test_each_kind_alone_works(trained: Trained, features: FeatureKind, classifier: ClassifierKind) -> None:
    router = trained(features, classifier)
    assert router.settings.features == (features,) and router.settings.classifiers == (classifier,)
    assert router.classifier.kind == classifier and router.report["accuracy"] > 0.7
    assert router.fingerprint == (FINGERPRINT if features in ("embedding", "hidden") else "")
    assert router.settings.layer == (1 if features == "hidden" else None)
    assert router.novelty is not None
    assert sparse.issparse(router.novelty.references) == (features == "tfidf")


@pytest.mark.parametrize("features", ["embedding", "tfidf"])
@pytest.mark.parametrize("classifier", CLASSIFIER_KINDS)
def test_equal_seeds_give_equal_routers_and_others_do_not(
    tmp_path: Path, features: FeatureKind, classifier: ClassifierKind
) -> None:
    labelled = prompts(TASKS[:2], 14)
    settings = {"features": (features,), "classifiers": (classifier,)}
    for name, seed in (("first", 5), ("second", 5), ("other", 6)):
        save_router(train(labelled, TASKS[:2], **settings, seed=seed)[0], tmp_path / name)
    for file in ("router.json", "router.safetensors"):
        first, second, other = (
            (tmp_path / name / file).read_bytes() for name in ("first", "second", "other")
        )
        assert first == second and first != other


def test_labels_follow_the_given_order_of_tasks() -> None:
    tasks = TASKS[::-1]
    router, report = train(prompts(TASKS, 30), tasks)
    assert router.tasks == tuple(tasks) and report["accuracy"] >= 0.9


def test_what_is_measured_was_not_learnt_from() -> None:
    # Random labels: right by chance alone, though references hold the training prompts themselves.
    generator = np.random.default_rng(0)
    texts = [prompt.text for prompt in prompts(TASKS[:1], 300)]
    labelled = [Prompt(TASKS[generator.integers(2)], text) for text in texts]
    _, report = train(labelled, TASKS[:2])
    assert sum(report["counts"]["test"].values()) in (44, 45, 46)
    assert report["accuracy"] == pytest.approx(0.5, abs=0.3)
    assert report["ece"] < 0.3 and report["nll"] < 1


@pytest.mark.parametrize("kind", CLASSIFIER_KINDS)
def test_calibration_and_thresholds_are_of_prompts_not_learnt_from(kind: ClassifierKind) -> None:
    # More features than prompts, that say nothing of their labels: all are learnt, none is foretold.
    generator = np.random.default_rng(0)
    features = generator.normal(size=(620, 400)).astype(np.float32)
    labels = np.arange(620) % 2
    known, fresh = slice(0, 120), slice(120, None)
    settings = RouterSettings(features=("embedding",), classifiers=(kind,), false_rejection=0.1)
    router = fit(features[known], labels[known], ("a", "b"), settings, "")
    probabilities = router.probabilities(router.scaling.apply(features))
    assert (probabilities.argmax(1) == labels)[known].all()
    losses = -np.log(probabilities[np.arange(620), labels])
    # With temperatures of prompts learnt from they would be 0.78 to 1.65.
    assert losses[fresh].mean() == pytest.approx(np.log(2), abs=0.03)
    held = cross_fit(features[known], labels[known], 2, kind, settings.seed, novelty=True)
    assert router.novelty is not None
    expected = task_thresholds(held.distances, labels[known], 0.1)
    np.testing.assert_array_equal(router.novelty.thresholds, expected)


def test_beside_means_last_tokens_do_not_say_whether_a_prompt_is_known(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 2
    means = generator.normal(size=(2, 8))[labels] + 0.1 * generator.normal(size=(120, 8))
    last = generator.normal(size=(120, 8))
    features = np.concatenate([means, last], 1).astype(np.float32)
    settings = RouterSettings(features=("hidden",), classifiers=("logistic",), pooling="both", layer=1)
    save_router(fit(features, labels, ("a", "b"), settings, FINGERPRINT), tmp_path)
    router = load_router(tmp_path)
    alone = fit(features[:, :8], labels, ("a", "b"), settings.model_copy(update={"pooling": "mean"}), "")
    assert router.novelty is not None and alone.novelty is not None
    assert (router.novelty.compared, alone.novelty.compared) == (8, None)
    np.testing.assert_allclose(router.novelty.thresholds, alone.novelty.thresholds, atol=1e-3)
    elsewhere = features.copy()
    elsewhere[:, :8] = generator.normal(size=(120, 8))
    found = {
        name: np.mean([route.known for route in router.decide(router.scaling.apply(x))])
        for name, x in (("as trained", features), ("other means", elsewhere))
    }
    assert found["as trained"] > 0.9 and found["other means"] < 0.1


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_prompts_that_nearly_look_alike_make_a_router_that_loads(tmp_path: Path) -> None:
    # Of embeddings only the mean is seen, and anagrams have the same but for rounding.
    texts = sorted({"".join(letters) for letters in permutations("afgafg")})[:60]
    router, report = train([Prompt("anagrams", text) for text in texts], ["anagrams"])
    save_router(router, tmp_path)
    assert load_router(tmp_path).tasks == ("anagrams",) and report["false_rejection"] < 0.5


def test_a_single_task_needs_no_comparison() -> None:
    _, report = train(prompts(TASKS[:1], 12), TASKS[:1], classifiers=CLASSIFIER_KINDS)
    assert [row["classifier"] for row in report["comparison"]] == ["logistic"]


def test_held_out_prompts_are_a_share_of_each_task() -> None:
    labels = np.array([0] * 100 + [1] * 10 + [2] * 3)
    test = held_out(labels, seed=0)
    assert np.bincount(labels[test]).tolist() == [15, 2, 1]
    assert (held_out(labels, seed=0) == test).all() and (held_out(labels, seed=1) != test).any()


def test_duplicates_count_once_and_conflicts_not_at_all() -> None:
    labelled = prompts(TASKS, 20)
    contested = Prompt("talking", labelled[0].text)
    shouted = Prompt("talking", f"  {labelled[-1].text.upper()}\n")
    _, report = train([*labelled, labelled[25], contested, shouted])
    assert report["dropped"] == {"duplicates": 3, "conflicts": 1}
    totals = [sum(split[task] for split in report["counts"].values()) for task in TASKS]
    assert totals == [19, 20, 20]


@pytest.mark.parametrize("features", ["embedding", "tfidf", "hidden"])
@pytest.mark.parametrize("classifier", CLASSIFIER_KINDS)
def test_the_fewest_prompts_will_do(features: FeatureKind, classifier: ClassifierKind) -> None:
    router, report = train(prompts(TASKS, 10), features=(features,), classifiers=(classifier,))
    assert report["counts"] == {"train": dict.fromkeys(TASKS, 8), "test": dict.fromkeys(TASKS, 2)}
    assert (
        router.novelty is not None
        and all(router.novelty.thresholds > 0)
        and all(router.novelty.thresholds < 2)
    )


def test_odd_names_of_tasks(tmp_path: Path) -> None:
    names = dict(zip(TASKS, ["a/b", "ü", "task 1"], strict=True))
    labelled = [Prompt(names[prompt.task], prompt.text) for prompt in prompts(TASKS, 12)]
    router, report = train(labelled, list(names.values()))
    assert list(report["tasks"]) == ["a/b", "ü", "task 1"]
    save_router(router, tmp_path)
    assert json.loads((tmp_path / "router.json").read_text())["tasks"] == ["a/b", "ü", "task 1"]


@pytest.mark.timeout(20)
def test_very_long_prompts() -> None:
    labelled = [
        Prompt(prompt.task, (prompt.text + " ") * (100_000 // len(prompt.text)))
        for prompt in prompts(TASKS[:2], 10)
    ]
    router, report = train(labelled, TASKS[:2], features=RouterSettings().features)
    assert report["accuracy"] >= 0.75
    assert router.settings.max_tokens == 256


def test_conversations_are_learnt_from_as_they_will_be_asked() -> None:
    # Only the turn before tells the task.
    generator = np.random.default_rng(0)
    labelled = [
        Prompt(prompt.task, "".join(generator.choice(list("!?;:,."), 12)), (prompt.text,))
        for prompt in prompts(TASKS[:2], 40)
    ]
    _, seen = train(labelled, TASKS[:2], history=0.9)
    _, blind = train(labelled, TASKS[:2], history=0.0)
    assert seen["accuracy"] >= 0.9 and blind["accuracy"] <= 0.8


def test_progress_reaches_the_end_of_every_stage() -> None:
    seen: list[tuple[str, int, int]] = []
    train_router(
        tiny.model("llama"),
        tiny.tokenizer(),
        prompts(TASKS[:2], 20),
        TASKS[:2],
        RouterSettings(classifiers=("logistic", "prototypes")),
        lambda *now: seen.append(now),
    )
    ends = [now for now in seen if now[1] == now[2]]
    assert ends == [
        *((f"router: {kind}", 40, 40) for kind in ("embedding", "tfidf", "hidden")),
        ("router: comparing", 6, 6),
    ]
    assert [now[1] for now in seen if now[0] == "router: comparing"] == [1, 2, 3, 4, 5, 6]


def test_refusals() -> None:
    labelled = prompts(TASKS, 12)
    with pytest.raises(InputError, match="names the task 'talking'; known: counting, shouting"):
        train(labelled, TASKS[:2])
    with pytest.raises(InputError, match="task 'counting' has 2 distinct prompts"):
        train(labelled[10:])
    with pytest.raises(InputError, match="layer 9 does not exist"):
        train(labelled, features="hidden", layer=9)
    with pytest.raises(InputError, match="has no tokens"):
        # A tokenizer may drop what a string holds.
        train_router(
            tiny.model("llama"), lambda *_, **__: {"input_ids": []}, labelled, TASKS, RouterSettings()
        )


@pytest.mark.parametrize("features", ["embedding", "hidden"])
def test_features_that_overflow_are_refused(features: FeatureKind) -> None:
    model = tiny.model("llama")
    model.get_input_embeddings().weight.data[20:] = float("inf")
    settings = RouterSettings(features=(features,))
    with pytest.raises(InputError, match=f"gives {features} features that are not finite"):
        train_router(model, tiny.tokenizer(), prompts(TASKS, 12), TASKS, settings)
