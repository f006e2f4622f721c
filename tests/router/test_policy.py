"""Mixtures: hard by default, blended when asked, empty when nobody should answer."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from router import Policy

SCORES = {"a": 0.2, "b": 0.7, "c": 0.1}


def test_the_best_task_gets_weight_one() -> None:
    assert Policy().mixture(SCORES, known=True) == {"b": 1.0}


def test_unknown_or_unsure_goes_to_the_null_slot() -> None:
    assert Policy().mixture(SCORES, known=False) == {}
    assert Policy(threshold=0.71).mixture(SCORES, known=True) == {}
    assert Policy(threshold=0.7).mixture(SCORES, known=True) == {"b": 1.0}
    assert Policy(threshold=0, top_k=3).mixture(SCORES, known=False) == {}


@pytest.mark.parametrize("top_k", [2, 3, 9])
def test_a_blend_sums_to_one_and_keeps_proportions(top_k: int) -> None:
    mixture = Policy(top_k=top_k).mixture(SCORES, known=True)
    assert len(mixture) == min(top_k, 3)
    assert sum(mixture.values()) == pytest.approx(1.0)
    assert mixture["b"] / mixture["a"] == pytest.approx(3.5)


def test_a_task_of_probability_zero_is_left_out() -> None:
    assert Policy(top_k=2).mixture({"a": 1.0, "b": 0.0}, known=True) == {"a": 1.0}


@pytest.mark.parametrize("bad", [{"top_k": 0}, {"threshold": 1.1}, {"threshold": -1}, {"k": 2}])
def test_refusals(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate(bad)
