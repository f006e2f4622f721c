"""Always-valid multiples against the mixtures that they solve, computed by numerical integration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from serve.experiments.statistics.sequences import TIGHTEST, mixing, multiple, one_sided_multiple, p_value

NUMBERS = [100, 1000, 50_000]
ALPHAS = [0.05, 0.025, 0.001]


def mixture(z: float, n: float, rho2: float, low: float) -> float:
    """Likelihood ratio of a mean drawn from the normal density above ``low``, scaled to one, against zero."""
    scale = 2 if low == 0 else 1
    rho = math.sqrt(rho2)
    peak = z * math.sqrt(n) * rho2 / (1 + n * rho2)
    width = math.sqrt(rho2 / (1 + n * rho2))
    found, _ = quad(
        lambda mu: scale * norm.pdf(mu / rho) / rho * math.exp(mu * z * math.sqrt(n) - mu * mu * n / 2),
        max(low, peak - 12 * width),
        peak + 12 * width,
    )
    return found


@pytest.mark.parametrize("n", NUMBERS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_two_sided_is_where_the_normal_mixture_reaches_one_over_alpha(n, alpha):
    z = multiple(n, alpha)
    assert mixture(z, n, mixing(alpha), -math.inf) == pytest.approx(1 / alpha, rel=1e-6)


@pytest.mark.parametrize("n", NUMBERS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_one_sided_is_where_the_half_normal_mixture_reaches_one_over_alpha(n, alpha):
    z = one_sided_multiple(n, alpha)
    assert mixture(z, n, mixing(2 * alpha), 0) == pytest.approx(1 / alpha, rel=1e-6)
    assert norm.ppf(1 - alpha) < z < multiple(n, alpha)


def test_it_is_the_boundary_of_the_paper():
    # Waudby-Smith et al. 2024, equation 4, for a standard deviation of 1.7 at t = 640.
    t, alpha, sigma, rho2 = 640, 0.05, 1.7, mixing(0.05)
    margin = sigma * math.sqrt(
        2 * (t * rho2 + 1) / (t * t * rho2) * math.log(math.sqrt(t * rho2 + 1) / alpha)
    )
    assert multiple(t, alpha) * sigma / math.sqrt(t) == pytest.approx(margin, rel=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_no_other_mixing_is_narrower_where_it_should_be_tightest(alpha):
    def width(rho2: float) -> float:
        x = TIGHTEST * rho2
        return (1 + x) / x * math.log((1 + x) / alpha**2)

    best = mixing(alpha)
    assert width(best) < min(width(best * 1.01), width(best / 1.01))


@settings(deadline=None)
@given(z=st.floats(-8, 8), n=st.floats(10, 1e6), alpha=st.sampled_from(ALPHAS))
def test_the_p_value_is_below_alpha_exactly_where_the_interval_leaves_out_zero(z, n, alpha):
    limit = multiple(n, alpha)
    if abs(abs(z) - limit) > 1e-9:
        assert (p_value(z, n, alpha) < alpha) == (abs(z) > limit)
    assert 0 < p_value(z, n, alpha) <= 1


def test_a_brownian_motion_seldom_leaves_it_and_often_leaves_the_fixed_interval():
    generator, steps = np.random.default_rng(2), np.unique(np.geomspace(50, 20_000, 150).astype(int))
    increments = generator.normal(size=(3000, len(steps))) * np.sqrt(np.diff(steps, prepend=0))
    z = np.abs(increments.cumsum(1)) / np.sqrt(steps)
    always = (z > [multiple(n, 0.05) for n in steps]).any(1).mean()
    assert 0.01 < always < 0.05 < 0.3 < (z > norm.ppf(0.975)).any(1).mean()
    one_sided = (increments.cumsum(1) / np.sqrt(steps) > [one_sided_multiple(n, 0.05) for n in steps]).any(1)
    assert 0.01 < one_sided.mean() < 0.05
