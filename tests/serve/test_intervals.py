"""Averages over tasks and their intervals, against arithmetic by hand and scipy's own bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap

from serve.evaluate import Scores
from serve.intervals import normalised, paired_interval, recovered


def scores(**hits):
    return Scores({task: np.array(values, dtype=float) for task, values in hits.items()})


def test_shares_by_hand():
    own = scores(a=[1, 1, 1, 0], b=[1, 0])
    arm = scores(a=[1, 1, 0, 0], b=[1, 0])
    base = scores(a=[1, 0, 0, 0], b=[0, 0])
    assert normalised(arm, own).value == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert recovered(arm, base, own).value == pytest.approx(100 * (1 / 2 + 1) / 2)


def test_tasks_that_the_own_expert_does_not_know_or_improve_say_nothing():
    own, arm = scores(a=[1, 1], b=[0, 0]), scores(a=[1, 0], b=[1, 1])
    assert normalised(arm, own).value == 50
    assert recovered(arm, scores(a=[0, 0], b=[0, 0]), own).value == 50
    assert math.isnan(normalised(arm, scores(a=[0, 0], b=[0, 0])).value)
    assert math.isnan(recovered(arm, own, own).low)


def test_more_than_the_own_expert_is_more_than_a_hundred():
    assert normalised(scores(a=[1, 1]), scores(a=[1, 0])).value == 200


def test_the_normalised_interval_agrees_with_scipy():
    generator = np.random.default_rng(3)
    own = generator.binomial(1, 0.8, 300).astype(float)
    arm = own * generator.binomial(1, 0.9, 300)
    found = normalised(scores(a=arm), scores(a=own))
    theirs = scipy_bootstrap(
        (arm, own),
        lambda a, b: 100 * a.mean(-1) / b.mean(-1),
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=5000,
        random_state=np.random.default_rng(0),
    ).confidence_interval
    assert found.low == pytest.approx(theirs.low, abs=0.5)
    assert found.high == pytest.approx(theirs.high, abs=0.5)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=30))
def test_a_difference_is_minus_the_difference_the_other_way_round(pairs):
    a, b = (scores(t=[pair[i] for pair in pairs]) for i in (0, 1))
    one, other = paired_interval(a, b), paired_interval(b, a)
    assert one.value == pytest.approx(-other.value)
    assert one.low == pytest.approx(-other.high) and one.high == pytest.approx(-other.low)
    assert one.low - 1e-9 <= one.value <= one.high + 1e-9
