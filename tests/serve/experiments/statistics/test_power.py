"""Sizes of experiments against statsmodels and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.power import NormalIndPower

from compress.errors import InputError
from serve.experiments.statistics.power import detectable, still_needed, units_needed
from serve.experiments.statistics.sequences import multiple


@pytest.mark.parametrize(("share", "power"), [(0.5, 0.8), (0.5, 0.95), (0.1, 0.8)])
def test_one_look_needs_what_statsmodels_says(share, power):
    units = units_needed(0.3, (1.5, 1.5), share=share, power=power, always_valid=False)
    ratio = (1 - share) / share
    arm = NormalIndPower().solve_power(0.3 / 1.5, alpha=0.05, power=power, ratio=ratio)
    assert units == pytest.approx(arm * (1 + ratio), abs=2)


def test_looking_always_needs_what_simulation_says():
    units = units_needed(0.2, (1.0, 1.0), power=0.8)
    looks = np.arange(10, units + 1, 10)
    generator = np.random.default_rng(6)
    # A difference of means of n units in halves is a Brownian motion of variance 4 n, of drift effect · n.
    paths = (generator.normal(size=(4000, len(looks))) * np.sqrt(4 * 10) + 0.2 * 10).cumsum(1)
    found = (np.abs(paths) / np.sqrt(4 * looks) > [multiple(n, 0.05) for n in looks]).any(1).mean()
    assert 0.78 < found < 0.83
    assert units > units_needed(0.2, (1.0, 1.0), power=0.8, always_valid=False)


@settings(deadline=None)
@given(units=st.integers(200, 100_000), always_valid=st.booleans(), power=st.floats(0.5, 0.99))
def test_what_can_be_found_needs_that_many(units, always_valid, power):
    effect = detectable(units, (2.0, 1.0), share=0.3, power=power, always_valid=always_valid)
    again = units_needed(effect, (2.0, 1.0), share=0.3, power=power, always_valid=always_valid)
    assert again == pytest.approx(units, abs=1.1)


def test_what_is_missing_brings_the_interval_to_zero():
    effect, error, information = 0.1, 0.04, 900.0
    times = still_needed(effect, error, information, 0.05)
    assert times > 1
    assert multiple(times * information, 0.05) * error / times**0.5 == pytest.approx(effect)
    assert still_needed(0.5, error, information, 0.05) == 1
    assert still_needed(0.0, error, information, 0.05) is None


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"effect": 0.0}, "effect is 0; give the smallest difference"),
        ({"deviations": (1.0, 0.0)}, "standard deviations are 1 and 0"),
        ({"share": 1.0}, "share is 1; it must lie between 0 and 1"),
        ({"power": 1.0}, "power is 1"),
        ({"effect": 1e-9}, "too small"),
    ],
)
def test_impossible_questions_are_refused(given, sentence):
    with pytest.raises(InputError, match=sentence):
        units_needed(**{"effect": 0.1, "deviations": (1.0, 1.0), **given})
