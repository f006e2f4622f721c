"""Intervals that hold at every look at once: asymptotic confidence sequences, in standard errors.

Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024 (Annals of Statistics 52(6), arXiv:2103.06476), which are
the normal mixtures of Robbins 1970 and Howard et al. 2021 (Annals of Statistics 49(2), arXiv:1810.08240) with
an estimated variance. With x = n ρ² for n observations of equal weight, the effect lies within

    ± standard error · √((1 + x) / x · ln((1 + x) / α²))

at all n at once with probability 1 - α, for n large enough that the central limit theorem may speak. The same
mixture is the mSPRT of Johari et al. 2022 (Operations Research 70(3)). ``confseq`` computes such bounds too,
and is to be had as C++ source alone; ``expectation`` has none for an estimated variance.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import lambertw, log_ndtr

# Observations at which the interval is as narrow as it can be. A constant, because a choice made after a look
# at the data would void the promise.
TIGHTEST = 1000
# Units of each arm before the central limit theorem is trusted at every look: benchmarks/experiments shows
# what fewer do to skewed metrics where one arm's share is small.
LEAST = 100


@cache
def mixing(alpha: float) -> float:
    """ρ² that makes the two-sided interval narrowest at ``TIGHTEST`` observations: (-W₋₁(-α²/e) - 1) / n,
    the exact form of the approximation in Waudby-Smith et al. 2024, appendix B.2."""
    return float((-lambertw(-(alpha**2) / np.e, -1).real - 1) / TIGHTEST)


def multiple(n: float, alpha: float) -> float:
    """Standard errors either side of an effect, two-sided. n: observations of equal weight, > 0."""
    x = n * mixing(alpha)
    return float(np.sqrt((1 + x) / x * np.log((1 + x) / alpha**2)))


def one_sided_multiple(n: float, alpha: float) -> float:
    """Standard errors to one side: the z with 2 (1 + x)^(-1/2) exp(z²s/2) Φ(z √s) = 1/α, s = x/(1 + x).

    The mixture of the normal likelihood ratio over a half-normal (one-sided normal mixture, Howard et al.
    2021, proposition 6). It is narrower than two-sided, and by itself promises one direction alone.
    """
    # Two-sided at 2α is where the same x is best for one side.
    x = n * mixing(min(2 * alpha, 0.99))
    shrunk = x / (1 + x)

    def excess(z: float) -> float:
        log = np.log(2) - np.log1p(x) / 2 + z * z * shrunk / 2 + log_ndtr(z * np.sqrt(shrunk))
        return float(log + np.log(alpha))

    # At this z the exponential alone is enough.
    most = np.sqrt((1 + x) / x * np.log((1 + x) / alpha**2))
    return float(brentq(excess, 0.0, most))


def p_value(z: float, n: float, alpha: float) -> float:
    """Always-valid p-value of an effect of ``z`` standard errors: one over the mixture likelihood ratio, at
    most 1. Below ``alpha`` where, and only where, the two-sided interval leaves out zero."""
    x = n * mixing(alpha)
    log = z * z * x / (1 + x) / 2 - np.log1p(x) / 2
    return float(np.exp(-max(0.0, log)))
