"""A router that gains and loses tasks, without the prompts of the others."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.special import expit, logsumexp

from compress.errors import InputError
from router import (
    Prompt,
    Query,
    Router,
    RouterSettings,
    extend,
    load_router,
    save_router,
    train_router,
    without,
)
from router.classifiers import CLASSIFIER_KINDS, ClassifierKind
from router.classifiers.dataless import Dataless
from router.classifiers.logistic import STRENGTH, Logistic
from router.classifiers.mlp import Perceptron
from router.features import FeatureKind, Matrix
from router.train import held_out
from tests import tiny
from tests.router.conftest import FINGERPRINT
from tests.router.prompts import TASKS, prompts

OLD, NEW = TASKS[:2], TASKS[2]
TOKENIZER = tiny.tokenizer()
OWN = prompts([NEW], 40)
FRESH = prompts(TASKS, 20, seed=9)
FEATURES: list[FeatureKind] = ["embedding", "tfidf", "hidden"]
KINDS = [(features, classifier) for features in FEATURES for classifier in CLASSIFIER_KINDS]
# No old prompt shares an n-gram with the new alphabet, so hashed prototypes see nothing of it.
SEEING = [kind for kind in KINDS if kind != ("tfidf", "prototypes")]
Growing = Callable[[FeatureKind, ClassifierKind], tuple[Router, Router]]
every_kind = pytest.mark.parametrize(("features", "classifier"), KINDS)


@pytest.fixture(scope="module")
def growing(model: Any) -> Growing:
    """``growing(features, classifier)``: a router over two tasks, and it extended by the third."""
    made: dict[tuple[str, str], tuple[Router, Router]] = {}

    def get(features: FeatureKind, classifier: ClassifierKind) -> tuple[Router, Router]:
        if (features, classifier) not in made:
            settings = RouterSettings(features=(features,), classifiers=(classifier,))
            router, _ = train_router(
                model, TOKENIZER, prompts(OLD, 40), OLD, settings, fingerprint=FINGERPRINT
            )
            made[features, classifier] = router, extend(router, model, TOKENIZER, NEW, OWN)[0]
        return made[features, classifier]

    return get


def asked(router: Router, given: Sequence[Prompt] = FRESH) -> list[Query]:
    return [router.query(TOKENIZER, prompt.turns) for prompt in given]


def table(router: Router, model: Any, tasks: Sequence[str] | None = None) -> np.ndarray:
    """Probabilities of ``FRESH``, relative to each other among ``tasks``."""
    routes = router.route(model, asked(router))
    found = np.array([[route.probabilities[task] for task in tasks or router.tasks] for route in routes])
    return found / found.sum(1, keepdims=True)


def hits(router: Router, model: Any, task: str) -> float:
    """Share of fresh prompts of a task for which it is the likeliest."""
    best = [
        max(r.probabilities, key=lambda t: r.probabilities[t]) for r in router.route(model, asked(router))
    ]
    own = [found for found, prompt in zip(best, FRESH, strict=True) if prompt.task == task]
    return sum(found == task for found in own) / len(own)


@every_kind
def test_old_tasks_keep_their_ratios(
    model: Any, growing: Growing, features: FeatureKind, classifier: ClassifierKind
) -> None:
    router, grown = growing(features, classifier)
    assert grown.tasks == (*OLD, NEW) and router.tasks == tuple(OLD)
    before = table(router, model)
    np.testing.assert_allclose(table(grown, model, OLD), before, rtol=1e-4)
    for task in OLD:
        kept = [t for t in grown.tasks if t != task]
        less = without(grown, task)
        assert less.tasks == tuple(kept)
        np.testing.assert_allclose(table(less, model), table(grown, model, kept), rtol=1e-4)


@every_kind
def test_nothing_is_left_of_a_task_that_came_and_went(
    model: Any, growing: Growing, features: FeatureKind, classifier: ClassifierKind
) -> None:
    router, grown = growing(features, classifier)
    back = without(grown, NEW)
    assert back.tasks == router.tasks
    np.testing.assert_allclose(table(back, model), table(router, model), rtol=1e-6)
    for name, array in router.classifier.arrays().items():
        np.testing.assert_array_equal(back.classifier.arrays()[name], array)
    assert back.novelty is not None and router.novelty is not None
    np.testing.assert_array_equal(back.novelty.owner, router.novelty.owner)
    np.testing.assert_array_equal(back.novelty.thresholds, router.novelty.thresholds)
    np.testing.assert_array_equal(dense(back.novelty.references), dense(router.novelty.references))


@pytest.mark.parametrize(("features", "classifier"), SEEING)
def test_the_new_task_is_found_and_the_old_ones_still_are(
    model: Any, growing: Growing, features: FeatureKind, classifier: ClassifierKind
) -> None:
    _, grown = growing(features, classifier)
    assert {task: hits(grown, model, task) >= 0.85 for task in TASKS} == dict.fromkeys(TASKS, True)


@pytest.mark.parametrize("classifier", CLASSIFIER_KINDS)
def test_tasks_after_a_removed_one_are_still_themselves(
    model: Any, growing: Growing, classifier: ClassifierKind
) -> None:
    less = without(growing("embedding", classifier)[1], OLD[0])
    assert min(hits(less, model, task) for task in less.tasks) >= 0.85
    assert less.novelty is not None and sorted(set(less.novelty.owner.tolist())) == [0, 1]
    gone = [prompt for prompt in FRESH if prompt.task == OLD[0]]
    assert not any(route.known for route in less.route(model, asked(less, gone)))
    again, _ = extend(less, model, TOKENIZER, OLD[0], prompts(OLD[:1], 40))
    assert again.tasks == (OLD[1], NEW, OLD[0])
    assert min(hits(again, model, task) for task in TASKS) >= 0.85


def test_a_router_of_one_task_grows_to_three(model: Any) -> None:
    own = TASKS[:1]
    router, _ = train_router(model, TOKENIZER, prompts(own, 40), own, RouterSettings(features=("embedding",)))
    for task in TASKS[1:]:
        router, _ = extend(router, model, TOKENIZER, task, prompts([task], 40))
    assert min(hits(router, model, task) for task in TASKS) >= 0.85
    assert [row["task"] for row in router.report["added"]] == TASKS[1:]


def dense(x: Matrix) -> np.ndarray:
    return np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float64)


def newton(x: np.ndarray, before: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Minimum over [w, b] of the logistic loss with an offset and ``|w|^2 / (2 * STRENGTH)``, by Newton's
    method: where it ends the gradient is zero."""
    rows = np.concatenate([x, before])
    rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    target = np.arange(len(rows)) < len(x)
    penalty = np.append(np.full(rows.shape[1] - 1, 1 / STRENGTH), 0)
    theta = np.append(np.zeros(rows.shape[1] - 1), offset.mean())
    for _ in range(50):
        p = expit(rows @ theta - offset)
        gradient = rows.T @ (p - target) + penalty * theta
        theta = theta - np.linalg.solve((rows.T * (p * (1 - p))) @ rows + np.diag(penalty), gradient)
    assert np.abs(gradient).max() < 1e-9
    return theta


@pytest.mark.parametrize(("features", "classifier"), [k for k in KINDS if k[1] != "prototypes"])
def test_the_new_row_is_the_optimum_beside_the_others(
    model: Any, growing: Growing, features: FeatureKind, classifier: ClassifierKind
) -> None:
    router, grown = growing(features, classifier)
    test = held_out(np.zeros(len(OWN), dtype=int), router.settings.seed)
    x = router.features(model, asked(router, OWN))[~test]
    assert router.novelty is not None
    seen = [x, router.novelty.references]
    above = [logsumexp(router.classifier.logits(m) / router.calibration, axis=1) for m in seen]
    if isinstance(router.classifier, Perceptron):
        seen = [router.classifier.units(m) for m in seen]
    x, before = (dense(m) for m in seen)
    theta = newton(x, before, np.concatenate(above))
    fresh = grown.features(model, asked(grown))
    offset = logsumexp(router.classifier.logits(fresh) / router.calibration, axis=1)
    inputs = dense(router.classifier.units(fresh) if isinstance(router.classifier, Perceptron) else fresh)
    expected = expit(inputs @ theta[:-1] + theta[-1] - offset)
    np.testing.assert_allclose(grown.probabilities(fresh)[:, -1], expected, atol=2e-3)
    assert isinstance(grown.classifier, Logistic | Perceptron)
    np.testing.assert_array_equal(grown.classifier.coef[:-1], router.classifier.arrays()["coef"])


# N-grams that no old task has stay unseen, so hashed features are not asked here.
@pytest.mark.parametrize(("features", "classifier"), [kind for kind in SEEING if kind[0] == "embedding"])
def test_prompts_of_the_new_task_are_unknown_before_and_known_after(
    model: Any, growing: Growing, features: FeatureKind, classifier: ClassifierKind
) -> None:
    own = [prompt for prompt in FRESH if prompt.task == NEW]
    before, after = growing(features, classifier)
    known = [sum(r.known for r in router.route(model, asked(router, own))) for router in (before, after)]
    assert known[0] <= 2 and known[1] >= 18


@every_kind
def test_thresholds_of_the_old_tasks_stay(
    growing: Growing, features: FeatureKind, classifier: ClassifierKind
) -> None:
    before, after = (router.novelty for router in growing(features, classifier))
    assert before is not None and after is not None
    np.testing.assert_array_equal(after.thresholds[:2], before.thresholds)
    assert after.thresholds.shape == (3,) and 0 < after.thresholds[2] <= 1
    less = without(growing(features, classifier)[1], OLD[0]).novelty
    assert less is not None
    np.testing.assert_array_equal(less.thresholds, after.thresholds[1:])


def test_what_is_compared_stays(model: Any) -> None:
    settings = RouterSettings(features=("hidden",), classifiers=("logistic",), pooling="both")
    router, _ = train_router(model, TOKENIZER, prompts(OLD, 40), OLD, settings)
    grown, _ = extend(router, model, TOKENIZER, NEW, OWN)
    less = without(grown, OLD[0])
    widths = {part.novelty.compared for part in (router, grown, less) if part.novelty is not None}
    assert widths == {len(router.scaling.weight) // 2}
    assert grown.novelty is not None
    known = [route.known for route in grown.route(model, asked(grown, OWN))]
    assert np.mean(known) > 0.9


def test_the_new_threshold_is_what_its_own_prompts_need_and_no_stricter_than_the_others(
    model: Any, growing: Growing
) -> None:
    """Prompts of few letters are near each other, those of many are not."""
    router, _ = growing("embedding", "logistic")
    assert router.novelty is not None
    tight = replace(router, novelty=replace(router.novelty, thresholds=np.array([0.01, 0.02])))
    made = random.Random(0)
    found = {}
    for letters in ("jk", "jklmnopq"):
        own = [Prompt(NEW, "".join(made.choices(letters, k=16))) for _ in range(60)]
        for name, old in (("as trained", router), ("tight", tight)):
            grown, _ = extend(old, model, TOKENIZER, NEW, own)
            assert grown.novelty is not None
            found[name, letters] = grown.novelty.thresholds[2]
    assert found["tight", "jk"] < 0.5 * found["tight", "jklmnopq"]
    assert found["as trained", "jk"] >= router.novelty.thresholds.min()


@every_kind
def test_grown_and_shrunk_routers_survive_their_files(
    model: Any, growing: Growing, tmp_path: Path, features: FeatureKind, classifier: ClassifierKind
) -> None:
    _, grown = growing(features, classifier)
    for name, router in (("grown", grown), ("shrunk", without(grown, OLD[0]))):
        save_router(router, tmp_path / name)
        loaded = load_router(tmp_path / name, FINGERPRINT, [*TASKS, "more"])
        assert (loaded.tasks, loaded.report) == (router.tasks, router.report)
        both = loaded.route(model, asked(loaded)), router.route(model, asked(router))
        for found, expected in zip(*both, strict=True):
            assert found.probabilities == pytest.approx(expected.probabilities, rel=1e-12)
            assert (found.known, found.mixture) == (expected.known, expected.mixture)


def test_only_prompts_of_the_new_task_count(model: Any, growing: Growing) -> None:
    router, grown = growing("embedding", "logistic")
    again, _ = extend(router, model, TOKENIZER, NEW, [*prompts(OLD, 15, seed=4), *OWN, *OWN[:7]])
    np.testing.assert_array_equal(table(again, model), table(grown, model))


def test_reports_say_what_was_added_and_removed(model: Any, growing: Growing) -> None:
    router, _ = growing("embedding", "logistic")
    grown, row = extend(router, model, TOKENIZER, NEW, OWN)
    test = held_out(np.zeros(len(OWN), dtype=int), router.settings.seed)
    kept = [prompt for prompt, out in zip(OWN, test, strict=True) if out]
    routes = grown.route(model, asked(grown, kept))
    assert grown.novelty is not None and router.novelty is not None
    taken = grown.probabilities(router.novelty.references).argmax(1) == 2
    assert row == {
        "task": NEW,
        "prompts": {"train": 34, "test": 6},
        "recall": np.mean([r.probabilities[NEW] == r.confidence for r in routes]),
        "false_rejection": np.mean([not r.known for r in routes]),
        "taken": taken.mean(),
    }
    assert grown.report == {**router.report, "added": [row]} and "added" not in router.report
    less = without(without(grown, OLD[1]), OLD[0])
    assert less.report == {**router.report, "added": [row], "removed": [OLD[1], OLD[0]]}
    again, second = extend(less, model, TOKENIZER, OLD[1], prompts([OLD[1]], 12))
    assert again.report["added"] == [row, second] and second["prompts"] == {"train": 10, "test": 2}


def test_taken_counts_prompts_that_the_new_task_wins(model: Any, growing: Growing) -> None:
    """A task that looks just like an old one takes some of its prompts, and none of the other's."""
    router, _ = growing("embedding", "logistic")
    alike = [Prompt("alike", prompt.text) for prompt in prompts(OLD[:1], 80, seed=5)]
    grown, row = extend(router, model, TOKENIZER, "alike", alike)
    assert 0.2 < row["taken"] <= 0.5
    other = [prompt for prompt in FRESH if prompt.task == OLD[1]]
    assert all(r.mixture == {OLD[1]: 1.0} for r in grown.route(model, asked(grown, other)) if r.known)


def test_what_cannot_be_done_is_refused(model: Any, growing: Growing) -> None:
    router, _ = growing("embedding", "logistic")
    projecting = RouterSettings(features=("projection",), classifiers=("dataless",), layer=1)
    dataless = replace(router, settings=projecting, classifier=Dataless(), novelty=None)
    few = [*OWN[:9], Prompt(NEW, OWN[0].text.upper())]

    def add(router: Router, task: str, given: Sequence[Prompt]) -> None:
        extend(router, model, TOKENIZER, task, given)

    with pytest.raises(InputError, match=f"knows the task '{OLD[0]}' already"):
        add(router, OLD[0], prompts(OLD[:1], 40))
    with pytest.raises(InputError, match=f"task '{NEW}' has 9 distinct prompts of its own: give at least 10"):
        add(router, NEW, few)
    with pytest.raises(InputError, match=f"task '{NEW}' has 0 distinct prompts"):
        add(router, NEW, prompts(OLD, 20))
    with pytest.raises(InputError, match="made without prompts is made anew"):
        add(dataless, "more", OWN)
    with pytest.raises(InputError, match="knows no task 'cooking'; it knows counting, shouting"):
        without(router, "cooking")
    with pytest.raises(InputError, match=f"'{OLD[0]}' is the router's only task: remove the router"):
        without(without(router, OLD[1]), OLD[0])
