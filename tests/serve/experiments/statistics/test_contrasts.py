"""Effects and intervals against scipy, statsmodels and tea-tasting."""

from __future__ import annotations

import math

import numpy as np
import pandas
import pytest
import tea_tasting
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

from serve.experiments.statistics.contrasts import contrast, fixed_horizon, within
from tests.serve.experiments.statistics.drawn import compared

GENERATOR = np.random.default_rng(11)
CONTROL, ARM = GENERATOR.lognormal(0, 1, 83), GENERATOR.lognormal(0.3, 0.7, 140)
samples = st.lists(st.floats(-100, 100), min_size=3, max_size=30).filter(lambda values: np.ptp(values) > 0.1)


def test_unit_means_are_compared_by_welchs_test():
    found, reference = (
        fixed_horizon(compared(CONTROL, ARM), 0.05),
        stats.ttest_ind(ARM, CONTROL, equal_var=False),
    )
    interval = reference.confidence_interval(0.95)
    assert (found.low, found.high, found.p_value) == pytest.approx((*interval, reference.pvalue))


def test_the_relative_effect_agrees_with_tea_tasting():
    data = pandas.DataFrame({"variant": [0] * len(CONTROL) + [1] * len(ARM), "value": [*CONTROL, *ARM]})
    reference = tea_tasting.Experiment(value=tea_tasting.Mean("value")).analyze(data)["value"]
    found = compared(CONTROL, ARM)
    assert found.relative == pytest.approx(reference.rel_effect_size)
    assert found.effect == pytest.approx(reference.effect_size)
    # tea-tasting takes logarithms where Fieller solves for the ratio: alike, not the same.
    low, high = found.relative_interval(fixed_horizon(found, 0.05).multiple)
    assert (low, high) == pytest.approx(
        (reference.rel_effect_size_ci_lower, reference.rel_effect_size_ci_upper), abs=0.05
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_the_relative_interval_ends_where_the_contrast_is_that_far_from_zero(sign):
    found, reach = compared(sign * CONTROL, sign * ARM), 2.5

    def distance(relative: float) -> float:
        difference = found.arm.mean - (1 + relative) * found.control.mean
        error = math.sqrt(found.arm.variance + (1 + relative) ** 2 * found.control.variance)
        return abs(difference) / error - reach

    ends = brentq(distance, -0.9, found.relative), brentq(distance, found.relative, 20)
    assert found.relative_interval(reach) == pytest.approx(ends)


def test_a_control_near_zero_has_no_relative_interval():
    assert compared([-1, 0, 1.2], [1, 2, 3]).relative_interval(2) is None
    assert compared([-1, 0, 1], [1, 2, 3]).relative is None


@pytest.mark.parametrize(("hits", "sizes"), [((40, 71), (120, 130)), ((0, 9), (50, 50)), ((0, 0), (30, 40))])
def test_counts_are_compared_as_proportions(hits, sizes):
    values = [[1.0] * hit + [0.0] * (size - hit) for hit, size in zip(hits, sizes, strict=True)]
    found = fixed_horizon(compared(*values, smoothed=True, plain=True), 0.05)
    low, high = confint_proportions_2indep(hits[1], sizes[1], hits[0], sizes[0], method="newcomb", alpha=0.05)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    p = proportions_ztest(hits, sizes)[1] if any(hits) else 1.0
    assert found.p_value == pytest.approx(p)


def test_smoothing_is_one_more_zero_and_one_more_one_of_each_arm():
    control, arm = [0.0] * 20 + [1.0] * 5, [1.0] * 30
    found = compared(control, arm, smoothed=True)
    rates, sizes = np.array([6 / 27, 31 / 32]), np.array([27, 32])
    # Sample variances with n - 1, as everywhere here.
    assert found.error**2 == pytest.approx((rates * (1 - rates) / (sizes - 1)).sum())
    assert found.effect == 1 - 0.2


def test_versions_are_compared_within_themselves():
    # Everything doubled between the versions, and so did the arm's share: pooled means would differ a lot.
    first = np.random.default_rng(1).normal(1, 0.1, 120)
    second = np.random.default_rng(2).normal(2, 0.1, 300)
    means, version = np.append(first, second), np.repeat([1, 2], [120, 300])
    arm = np.append(np.arange(120) % 10 == 0, np.arange(300) % 3 != 0).astype(int)
    found = contrast(means, arm, version, (0, 1), within(means, arm))
    assert abs(means[arm == 1].mean() - means[arm == 0].mean()) > 0.2
    assert abs(found.effect) < 3 * found.error and found.error < 0.05
    parts = [compared(part[of == 0], part[of == 1]) for part, of in ((first, arm[:120]), (second, arm[120:]))]
    weights = np.array([n * m / (n + m) for n, m in (part.units for part in parts)])
    assert found.effect == pytest.approx(weights @ [part.effect for part in parts] / weights.sum())
    squares = [part.error**2 for part in parts]
    assert found.error**2 == pytest.approx(weights**2 @ squares / weights.sum() ** 2)


def test_information_of_equal_arms_of_units_that_come_once_is_their_number():
    values = np.tile([0.0, 1.0, 2.0, 5.0], 100)
    assert compared(values, values).information == pytest.approx(800, rel=0.01)


@pytest.mark.parametrize("means", [[], [1.0], [1.0, 2.0], [np.nan] * 6, [3.0] * 8])
def test_too_little_to_compare_is_nothing(means):
    values = np.array(means)
    of = np.arange(len(values)) % 2
    assert contrast(values, of, np.ones(len(values), int), (0, 1), 1.0) is None


@settings(deadline=None)
@given(control=samples, arm=samples)
def test_swapped_arms_change_the_sign_alone(control, arm):
    there, back = compared(control, arm), compared(arm, control)
    assert there.effect == -back.effect and there.error == pytest.approx(back.error)
    assert there.information == pytest.approx(back.information)
    low, high = fixed_horizon(there, 0.05).low, fixed_horizon(there, 0.05).high
    assert (fixed_horizon(back, 0.05).low, fixed_horizon(back, 0.05).high) == pytest.approx((-high, -low))


@settings(deadline=None)
@given(control=samples, arm=samples, scale=st.floats(0.01, 100))
def test_other_units_of_measurement_scale_everything_but_what_has_none(control, arm, scale):
    one, other = compared(control, arm), compared(np.array(control) * scale, np.array(arm) * scale)
    assert other.effect == pytest.approx(scale * one.effect, abs=1e-9)
    assert other.error == pytest.approx(scale * one.error)
    assert other.information == pytest.approx(one.information)


@settings(deadline=None)
@given(control=samples, arm=samples, seed=st.integers(0, 99))
def test_the_order_of_units_does_not_matter(control, arm, seed):
    generator = np.random.default_rng(seed)
    one, other = compared(control, arm), compared(generator.permutation(control), generator.permutation(arm))
    assert (other.effect, other.error) == pytest.approx((one.effect, one.error))
