"""Mixtures: one expert by default, blended when asked, empty when nobody should answer."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from router import Policy

SCORES = {"a": 0.2, "b": 0.7, "c": 0.1}


@st.composite
def distributions(draw: st.DrawFn) -> dict[str, float]:
    """Probabilities of up to eight tasks, some of them zero or nearly."""
    odds = draw(st.lists(st.sampled_from([0.0, 1e-300, 1e-9]) | st.floats(0.01, 1), min_size=1, max_size=8))
    assume(sum(odds) > 0)
    return {str(index): value / sum(odds) for index, value in enumerate(odds)}


def policies(**fixed: float) -> st.SearchStrategy[Policy]:
    free = {
        "threshold": st.floats(0, 1),
        "top_k": st.integers(1, 9),
        "certain": st.floats(0, 1),
        "temperature": st.floats(0.01, 10),
        "total": st.floats(0.01, 1),
    }
    return st.builds(
        Policy,
        **{name: values for name, values in free.items() if name not in fixed},
        **{name: st.just(value) for name, value in fixed.items()},
    )


def test_the_best_task_gets_weight_one() -> None:
    assert Policy().mixture(SCORES, known=True) == {"b": 1.0}


def test_unknown_or_unsure_goes_to_the_pretrained_base_where_that_is_wanted() -> None:
    policy = Policy(threshold=0.71, fallback="base", total=0.5)
    assert policy.mixture(SCORES, known=True) == policy.mixture(SCORES, known=False) == {"base": 1.0}
    assert policy.mixture({}, known=False) == {"base": 1.0}
    assert policy.mixture({"a": 0.9, "b": 0.1}, known=True) == {"a": 0.5}


def test_unknown_or_unsure_goes_to_the_null_slot() -> None:
    assert Policy().mixture(SCORES, known=False) == {}
    assert Policy(threshold=0.71).mixture(SCORES, known=True) == {}
    assert Policy(threshold=0.7).mixture(SCORES, known=True) == {"b": 1.0}
    assert Policy(threshold=0, top_k=3).mixture(SCORES, known=False) == {}
    assert Policy(threshold=0).mixture({}, known=True) == {}


@pytest.mark.parametrize(
    ("temperature", "ratio"), [(1.0, 3.5), (0.5, 3.5**2), (2.0, 3.5**0.5), (0.25, 3.5**4)]
)
@pytest.mark.parametrize("top_k", [2, 3, 9])
def test_a_blend_sums_to_the_total_and_keeps_proportions(
    top_k: int, temperature: float, ratio: float
) -> None:
    mixture = Policy(top_k=top_k, temperature=temperature, total=0.8).mixture(SCORES, known=True)
    assert list(mixture) == ["b", "a", "c"][:top_k]
    assert sum(mixture.values()) == pytest.approx(0.8)
    assert mixture["b"] / mixture["a"] == pytest.approx(ratio)


def test_a_certain_best_answers_alone() -> None:
    blended = Policy(top_k=3, certain=0.71).mixture(SCORES, known=True)
    assert set(blended) == {"a", "b", "c"}
    assert Policy(top_k=3, certain=0.7, total=0.6).mixture(SCORES, known=True) == {"b": 0.6}


def test_a_task_of_probability_zero_is_left_out() -> None:
    policy = Policy(top_k=2, certain=1, threshold=0)
    assert policy.mixture({"a": 0.9, "b": 0.0}, known=True) == {"a": 1.0}
    assert Policy(top_k=2).mixture({"a": 1.0, "b": 0.0}, known=True) == {"a": 1.0}


@settings(deadline=None, derandomize=True)
@given(distributions(), policies(), st.booleans())
def test_weights_sum_to_the_total_or_there_are_none(
    probabilities: dict[str, float], policy: Policy, known: bool
) -> None:
    mixture = policy.mixture(probabilities, known)
    best = max(probabilities.values())
    assert bool(mixture) == (known and best >= policy.threshold)
    if mixture:
        assert sum(mixture.values()) == pytest.approx(policy.total)
        assert all(weight > 0 for weight in mixture.values())
        assert len(mixture) <= policy.top_k
        assert probabilities[next(iter(mixture))] == best
        least = min(probabilities[task] for task in mixture)
        left_out = [p for task, p in probabilities.items() if task not in mixture]
        if best < policy.certain and len(mixture) == policy.top_k:
            assert max(left_out, default=0) <= least
        if best >= policy.certain:
            assert len(mixture) == 1


@settings(deadline=None, derandomize=True)
@given(distributions(), policies(threshold=0), st.floats(0.01, 10))
def test_a_smaller_temperature_leans_more_to_the_best(
    probabilities: dict[str, float], policy: Policy, other: float
) -> None:
    colder, warmer = sorted((policy.temperature, other))
    first, second = (
        policy.model_copy(update={"temperature": t}).mixture(probabilities, True) for t in (colder, warmer)
    )
    best = next(iter(first))
    assert best == next(iter(second)) and set(first) <= set(second)
    assert first[best] >= second[best] - 1e-12


@settings(deadline=None, derandomize=True)
@given(distributions(), policies(threshold=0))
def test_a_more_probable_task_never_weighs_less(probabilities: dict[str, float], policy: Policy) -> None:
    weights = policy.mixture(probabilities, True)
    for one in weights:
        for other in weights:
            assert probabilities[one] < probabilities[other] or weights[one] >= weights[other] * (1 - 1e-9)


@pytest.mark.parametrize(
    "bad",
    [
        {"top_k": 0},
        {"threshold": 1.1},
        {"threshold": -1},
        {"certain": 1.5},
        {"certain": -0.1},
        {"temperature": 0},
        {"temperature": 11},
        {"temperature": float("nan")},
        {"total": 0},
        {"total": 1.01},
        {"k": 2},
    ],
)
def test_refusals(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate(bad)
