"""Sample ratio mismatch, against the same test computed unit by unit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from serve.experiments.statistics.mismatch import ALARM, CONCENTRATION, mismatch, p_value


def unit_by_unit(units: list[str], shares: dict[str, float]) -> float:
    """Product of predictive probabilities of the Dirichlet prior over the shares, as a logarithm."""
    seen = {arm: CONCENTRATION * share for arm, share in shares.items()}
    total = 0.0
    for arm in units:
        total += math.log(seen[arm] / sum(seen.values())) - math.log(shares[arm])
        seen[arm] += 1
    return total


@pytest.mark.parametrize("shares", [{"a": 0.5, "b": 0.5}, {"a": 0.7, "b": 0.2, "c": 0.1}])
def test_it_is_the_product_of_predictions(shares):
    units = list(np.random.default_rng(4).choice(list(shares), 500, p=[1 / len(shares)] * len(shares)))
    counts = {arm: units.count(arm) for arm in shares}
    assert mismatch(counts, shares) == pytest.approx(unit_by_unit(units, shares))


def test_what_falls_as_declared_is_no_alarm_and_what_does_not_is_one():
    shares = {"a": 0.9, "b": 0.1}
    assert p_value(mismatch({"a": 9010, "b": 990}, shares)) == 1
    assert p_value(mismatch({"a": 8700, "b": 1300}, shares)) < ALARM
    assert p_value(mismatch({}, shares)) == 1


def test_an_arm_without_a_share_must_have_no_units():
    assert p_value(mismatch({"a": 10, "b": 0}, {"a": 1.0, "b": 0.0})) == 1
    assert p_value(mismatch({"a": 10, "b": 1}, {"a": 1.0, "b": 0.0})) == 0
