"""Conversations: what earlier turns weigh, and when a conversation stays with its expert."""

from __future__ import annotations

from typing import Any

import pytest

from router import Route, Router
from tests import tiny
from tests.router import byhand
from tests.router.byhand import at
from tests.router.prompts import TASKS

COUNT, SHOUT, _ = TASKS
ZERO, ONE = "0" * 10, "A" * 10
# Unlike any task; a little, and much, more like shouting than like counting; unlike any, yet most like it.
UNKNOWN, SLIGHTLY, MUCH, FAR = "z" * 10, "0" * 49 + "A" * 51, "0" * 45 + "A" * 55, "z" * 8 + "A" * 2


@pytest.fixture(scope="module")
def letters() -> Any:
    return byhand.model()


def route(router: Router, model: Any, *turns: str) -> Route:
    (found,) = router.route(model, [router.query(tiny.tokenizer(), turns)])
    return found


def test_the_premise(letters: Any) -> None:
    router = byhand.router()
    assert route(router, letters, ZERO).probabilities == pytest.approx(at(1), rel=1e-5)
    assert route(router, letters, SLIGHTLY).probabilities == pytest.approx(at(0.49, 0.51), rel=1e-5)
    assert [route(router, letters, text).known for text in (ZERO, SLIGHTLY, MUCH, UNKNOWN)] == [True] * 3 + [
        False
    ]
    gaps = [at(0.49, 0.51), at(0.45, 0.55)]
    assert [g[SHOUT] - g[COUNT] for g in gaps] == pytest.approx([0.1, 0.46], abs=0.01)


@pytest.mark.parametrize("history", [0.0, 0.25, 0.5, 1.0])
def test_a_turn_weighs_history_times_the_one_after_it(letters: Any, history: float) -> None:
    found = route(byhand.router(history=history), letters, "j" * 7, ZERO, ONE)
    total = 1 + history + history**2
    expected = at(history / total, 1 / total, history**2 / total)
    assert found.probabilities == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("history", [0.1, 0.5, 0.9])
def test_with_history_the_last_turn_weighs_most(letters: Any, history: float) -> None:
    router = byhand.router(history=history, threshold=0)
    assert route(router, letters, ZERO, ONE).mixture == {SHOUT: 1.0}
    assert route(router, letters, ONE, ZERO).mixture == {COUNT: 1.0}


def test_without_history_only_the_last_turn_counts(letters: Any) -> None:
    router = byhand.router(history=0.0)
    assert route(router, letters, ONE, ONE, ZERO) == route(router, letters, ZERO)
    assert route(router, letters, ZERO, UNKNOWN).mixture == {}


def test_turns_of_equal_length_and_weight_are_as_one_text(letters: Any) -> None:
    router = byhand.router(history=1.0)
    apart, joined = route(router, letters, ZERO, ONE, UNKNOWN), route(router, letters, ZERO + ONE + UNKNOWN)
    assert apart.probabilities == pytest.approx(joined.probabilities, rel=1e-4)
    assert apart.known == joined.known


@pytest.mark.parametrize(
    ("turns", "mixture"),
    [
        ([ZERO], {COUNT: 1.0}),
        ([UNKNOWN], {}),
        ([ZERO, UNKNOWN], {COUNT: 1.0}),
        ([ZERO, SLIGHTLY], {COUNT: 1.0}),
        ([ZERO, FAR], {COUNT: 1.0}),
        ([FAR], {}),
        ([ZERO, MUCH], {SHOUT: 1.0}),
        ([ONE, SLIGHTLY], {SHOUT: 1.0}),
        ([ZERO, UNKNOWN, SLIGHTLY, UNKNOWN], {COUNT: 1.0}),
        ([ZERO, ONE, UNKNOWN], {SHOUT: 1.0}),
        ([ZERO, ONE, ZERO], {COUNT: 1.0}),
        ([UNKNOWN, SLIGHTLY], {SHOUT: 1.0}),
        ([UNKNOWN, ZERO, UNKNOWN], {COUNT: 1.0}),
        ([UNKNOWN, UNKNOWN], {}),
    ],
)
def test_a_sticky_conversation_stays_until_another_task_is_much_likelier(
    letters: Any, turns: list[str], mixture: dict[str, float]
) -> None:
    found = route(byhand.router(sticky=0.2, history=0.0), letters, *turns)
    assert found.mixture == mixture
    # What is said of the last turn itself stays true.
    alone = route(byhand.router(history=0.0), letters, turns[-1])
    assert (found.probabilities, found.known) == (alone.probabilities, alone.known)


@pytest.mark.parametrize("last", [ZERO, SLIGHTLY, MUCH, UNKNOWN])
def test_without_stickiness_every_turn_is_decided_anew(letters: Any, last: str) -> None:
    router = byhand.router(history=0.0)
    assert route(router, letters, ZERO, ONE, ZERO, last) == route(router, letters, last)


def test_stickiness_of_one_never_leaves(letters: Any) -> None:
    found = route(byhand.router(sticky=1.0), letters, ZERO, ONE, ONE, UNKNOWN, ONE)
    assert found.mixture == {COUNT: 1.0} and found.confidence == found.probabilities[SHOUT]


def test_leaving_for_nobody(letters: Any) -> None:
    # Much likelier is the other task, yet not likely enough to be trusted.
    router = byhand.router(sticky=0.2, history=0.0, threshold=0.9)
    assert route(router, letters, ZERO, MUCH).mixture == {}
    assert route(router, letters, ZERO, SLIGHTLY).mixture == {COUNT: 1.0}


def test_a_blend_is_kept_as_it_was(letters: Any) -> None:
    router = byhand.router(sticky=0.2, history=0.0, top_k=2)
    first = route(router, letters, MUCH).mixture
    assert list(first) == [SHOUT, COUNT]
    assert route(router, letters, MUCH, UNKNOWN).mixture == first
    assert route(router, letters, MUCH, ONE).mixture == first
    assert route(router, letters, MUCH, ZERO).mixture == {COUNT: 1.0}


@pytest.mark.parametrize("history", [0.0, 0.5])
def test_a_longer_conversation_decides_as_the_shorter_did(letters: Any, history: float) -> None:
    router = byhand.router(sticky=0.2, history=history)
    said = [ZERO, UNKNOWN, SLIGHTLY, ONE, UNKNOWN, SLIGHTLY, ZERO, MUCH]
    batch = [router.query(tiny.tokenizer(), said[: length + 1]) for length in range(len(said))]
    together = router.route(letters, batch)
    assert together == [route(router, letters, *said[: length + 1]) for length in range(len(said))]
    assert len({tuple(found.mixture) for found in together}) > 1


def test_a_sticky_conversation_is_not_kept_by_the_pretrained_base(letters: Any) -> None:
    router = byhand.router(sticky=0.2, history=0.0, fallback="base")
    assert route(router, letters, UNKNOWN).mixture == {"base": 1.0}
    assert route(router, letters, UNKNOWN, SLIGHTLY).mixture == {SHOUT: 1.0}
    assert route(router, letters, ZERO, UNKNOWN).mixture == {COUNT: 1.0}
