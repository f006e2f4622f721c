"""The router as a whole: prompts in, probabilities and a mixture out."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from threadpoolctl import threadpool_info, threadpool_limits

from compress.errors import InputError
from router import Query, Router, RouterSettings, train_router
from router.classifiers import CLASSIFIER_KINDS, ClassifierKind
from router.features import FeatureKind
from router.query import clip
from router.router import CHARACTERS, MOST_TURNS
from tests import tiny
from tests.router import byhand
from tests.router.byhand import at
from tests.router.conftest import Trained
from tests.router.prompts import TASKS, prompts, queries

UNKNOWN = ["~~~~~~~~~~~~", "!?!?!?!?!?!?!?", "____", "zzzzzzzzzzzzzzzzzzzzzz"]
TOKENIZER = tiny.tokenizer()


@pytest.fixture(scope="module")
def router(model: Any) -> Router:
    return train_router(model, TOKENIZER, prompts(TASKS, 80), TASKS, RouterSettings())[0]


def asked(router: Router, texts: list[str]) -> list[Query]:
    return [router.query(TOKENIZER, [text]) for text in texts]


def test_routes_of_known_prompts(model: Any, router: Router) -> None:
    fresh = prompts(TASKS, 20, seed=9)
    routes = router.route(model, asked(router, [prompt.text for prompt in fresh]))
    hits = sum(route.mixture == {p.task: 1.0} for route, p in zip(routes, fresh, strict=True))
    assert hits >= 0.85 * len(fresh)
    for route in routes:
        assert list(route.probabilities) == TASKS
        assert sum(route.probabilities.values()) == pytest.approx(1)
        assert route.confidence == max(route.probabilities.values())


def test_unknown_prompts_go_to_the_null_slot(model: Any, router: Router) -> None:
    for route in router.route(model, asked(router, UNKNOWN)):
        assert not route.known and route.mixture == {}


def test_numpy_starts_no_threads_that_the_model_would_wait_for(
    model: Any, router: Router, monkeypatch
) -> None:
    """Where there are several cores, OpenBLAS's own threads spin after a product."""

    def threads() -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    seen = []
    logits = router.classifier.logits
    counted = SimpleNamespace(logits=lambda x: (seen.append(threads()), logits(x))[1])
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        replace(router, classifier=counted).route(model, asked(router, ["5 + 5 ="]))
        assert threads() == before
    [inside] = seen
    assert inside and set(inside) == {1}


def test_a_router_of_one_task_knows_what_is_not_its_task(model: Any) -> None:
    own = TASKS[-1:]
    router, _ = train_router(model, TOKENIZER, prompts(own, 200), own, RouterSettings())
    fresh = prompts(TASKS, 20, seed=9)
    routes = router.route(model, asked(router, [prompt.text for prompt in fresh]))
    known = [prompt.task for prompt, route in zip(fresh, routes, strict=True) if route.known]
    assert set(known) == set(own) and len(known) >= 17


KINDS: list[tuple[FeatureKind, ClassifierKind]] = [
    ("embedding", "logistic"),
    ("hidden", "mlp"),
    ("sentence", "prototypes"),
    ("tfidf", "logistic"),
]


@pytest.mark.parametrize(("features", "classifier"), KINDS)
def test_probabilities_are_the_softmax_of_calibrated_logits(
    model: Any, trained: Trained, features: FeatureKind, classifier: ClassifierKind
) -> None:
    router = trained(features, classifier)
    batch = queries([prompt.text for prompt in prompts(TASKS, 4, seed=7)])
    extracted = router.settings.extractor(features).extract(model, [query.turns[0] for query in batch])
    x = router.scaling.apply(extracted)
    expected = softmax(router.classifier.logits(x) / router.calibration, axis=1)
    assert router.novelty is not None
    near = router.novelty.distances(x) <= router.novelty.thresholds[expected.argmax(1)]
    for route, row, known in zip(router.route(model, batch), expected, near, strict=True):
        np.testing.assert_allclose(list(route.probabilities.values()), row, rtol=1e-4)
        assert route.known == known


@pytest.mark.parametrize(("features", "classifier"), KINDS)
def test_a_route_does_not_depend_on_the_other_prompts(
    model: Any, trained: Trained, features: FeatureKind, classifier: ClassifierKind
) -> None:
    router = trained(features, classifier)
    batch = queries([prompt.text for prompt in prompts(TASKS, 4, seed=7)] + UNKNOWN)
    together = router.route(model, batch)
    for query, route in zip(batch, together, strict=True):
        (alone,) = router.route(model, [query])
        assert alone.probabilities == pytest.approx(route.probabilities, rel=1e-4)
        assert alone.mixture == route.mixture


def test_nothing_said_goes_to_the_null_slot(model: Any, router: Router) -> None:
    said = router.query(TOKENIZER, ["12345678"])
    alone, (before, empty) = router.route(model, [said]), router.route(model, [said, Query(())])
    assert empty.probabilities == pytest.approx(dict.fromkeys(TASKS, 1 / 3))
    assert not empty.known and empty.mixture == {} and empty.confidence == pytest.approx(1 / 3)
    assert before == alone[0]


@pytest.mark.parametrize(("features", "classifier"), KINDS)
def test_nothing_asked_is_no_route(
    model: Any, trained: Trained, features: FeatureKind, classifier: ClassifierKind
) -> None:
    router = trained(features, classifier)
    assert router.route(model, []) == []
    assert [route.mixture for route in router.route(model, [Query(())])] == [{}]


@pytest.mark.parametrize("classifier", CLASSIFIER_KINDS)
def test_features_that_are_not_finite_go_to_the_null_slot(
    model: Any, trained: Trained, classifier: ClassifierKind
) -> None:
    broken, router = tiny.model("llama"), trained("embedding", classifier)
    (token,) = TOKENIZER("~")["input_ids"]
    broken.get_input_embeddings().weight.data[token] = float("nan")
    sound, spoilt = router.route(broken, queries(["12345678", "1234~"]))
    assert spoilt.probabilities == pytest.approx(dict.fromkeys(TASKS, 1 / 3))
    assert not spoilt.known and spoilt.mixture == {}
    (alone,) = router.route(model, queries(["12345678"]))
    assert (sound.mixture, sound.known) == (alone.mixture, alone.known)
    assert sound.probabilities == pytest.approx(alone.probabilities, abs=1e-6)


def test_a_turn_is_cut_to_what_the_router_looks_at() -> None:
    router = byhand.router(max_tokens=10)
    text = "  " + "abcdefgh" * 300 + "\n"
    (turn,) = router.query(TOKENIZER, [text]).turns
    assert turn.text == clip(text.strip(), CHARACTERS * 10) and len(turn.text) == 320
    assert turn.ids == tuple(clip(TOKENIZER(turn.text)["input_ids"], 10))
    assert TOKENIZER.decode(list(turn.ids)) == "abcdedefgh"


def test_tokens_are_plain_ids_without_a_chat_template() -> None:
    (turn,) = byhand.router().query(TOKENIZER, ["hello you"]).turns
    assert TOKENIZER.decode(list(turn.ids)) == "hello you"
    assert byhand.router().query(TOKENIZER, []).turns == ()
    assert (
        byhand.router().query(TOKENIZER, [" ", "a", ""]).turns
        == byhand.router().query(TOKENIZER, ["a"]).turns
    )


def test_of_a_long_conversation_the_last_turns_are_seen() -> None:
    turns = [f"turn {index}" for index in range(20)]
    assert [turn.text for turn in byhand.router().query(TOKENIZER, turns).turns] == turns[-MOST_TURNS:]
    assert [turn.text for turn in byhand.router(history=0.0).query(TOKENIZER, turns).turns] == turns[-1:]


def test_a_very_long_prompt_costs_no_more_than_its_ends() -> None:
    seen: list[int] = []

    def counting(text: str, **options: Any) -> Any:
        seen.append(len(text))
        return TOKENIZER(text, **options)

    router = byhand.router()
    query = router.query(counting, ["0" * 5000 + "z" * 90_000 + "A" * 5000])
    assert seen == [CHARACTERS * 256] and len(query.turns[0].ids) == 256
    assert query == router.query(TOKENIZER, ["0" * 5000 + "j" * 90_000 + "A" * 5000])
    (route,) = router.route(byhand.model(), [query])
    assert route.probabilities == pytest.approx(at(0.5, 0.5), rel=1e-4)


def test_a_model_of_another_size_is_refused(trained: Trained) -> None:
    for features in ("embedding", "hidden"):
        with pytest.raises(InputError, match=r"size 32, this model's have 64"):
            trained(features, "logistic").route(tiny.model("llama", hidden_size=64), queries(["12"]))
