"""Units are counted once, in bounded memory, and arms that got too many are told."""

from __future__ import annotations

import pytest
from scipy.stats import betabinom, binom, binomtest

from serve.experiments.assignment import arm_bucket, pseudonym
from serve.experiments.exposure import Exposure, Ratio

HALVES = {"a": 5000, "b": 5000}


def filled(exposure: Exposure, units: int, wrong: float = 0.0) -> Exposure:
    """Units half and half, but for ``wrong`` of arm a's, which are lost."""
    for i in range(units):
        arm = "a" if arm_bucket("s", str(i)) < 5000 else "b"
        if arm == "b" or i % 1000 >= wrong * 1000:
            exposure.add(pseudonym("s", str(i)), arm)
    return exposure


def test_a_unit_counts_once_and_each_response_counts():
    exposure = Exposure()
    for _ in range(3):
        exposure.add(pseudonym("s", "ann"), "a")
    exposure.add(pseudonym("s", "bob"), "b")
    assert exposure.units == {"a": 1, "b": 1}
    assert exposure.responses == {"a": 3, "b": 1}


def test_beyond_the_bound_a_uniform_sample_estimates():
    exposure = filled(Exposure(most=1000), 20_000)
    kept = sum(exposure.sampled.values())
    assert 400 < kept <= 1000 and exposure.depth == 5
    assert sum(exposure.units.values()) == pytest.approx(20_000, rel=0.15)
    again = dict(exposure.units)
    assert filled(exposure, 20_000).units == again, "what was let go must not come back"


def test_the_test_is_that_of_reports_and_grants_less_than_a_single_look():
    exposure = Exposure()
    for i in range(1000):
        exposure.add(f"{i:032x}", "a" if i < 545 else "b")
    # A Beta(500, 500) prior, by the library's own beta-binomial.
    factor = betabinom(1000, 500, 500).pmf(545) / binom(1000, 0.5).pmf(545)
    assert exposure.mismatch(HALVES) == pytest.approx(1 / factor)
    assert exposure.mismatch(HALVES) > binomtest(545, 1000).pvalue


def test_a_sound_assignment_is_no_alarm_and_lost_units_are_one():
    sound = filled(Exposure(most=2000), 30_000).mismatch(HALVES)
    lossy = filled(Exposure(), 30_000, wrong=0.1).mismatch(HALVES)
    assert sound > 0.01 and lossy < 1e-6
    assert Ratio(lossy).alarm and not Ratio(sound).alarm and not Ratio(None).alarm


def test_a_handful_is_no_alarm_and_one_arm_alone_has_no_ratio():
    exposure = Exposure()
    assert exposure.mismatch(HALVES) == 1
    for i in range(9):
        exposure.add(f"{i:032x}", "a")
    assert not Ratio(exposure.mismatch(HALVES)).alarm
    assert exposure.mismatch({"a": 10_000}) is None
