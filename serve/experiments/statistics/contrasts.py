"""One arm against the control: means over units, their errors, and intervals of difference and ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Interval = tuple[float, float]


@dataclass(frozen=True)
class Side:
    """A mean over units, and the variance of that mean."""

    mean: float
    variance: float


@dataclass(frozen=True)
class Contrast:
    """Two arms on one metric.

    freedom: degrees of freedom of the difference (Satterthwaite). spread: variance among responses within
    arms, which sets the scale of ``information``. units: (control, arm). plain: each unit is one 0 or 1, so
    counts say everything.
    """

    control: Side
    arm: Side
    freedom: float
    spread: float
    units: tuple[int, int]
    plain: bool = False

    @property
    def effect(self) -> float:
        """Arm minus control."""
        return self.arm.mean - self.control.mean

    @property
    def error(self) -> float:
        """Standard error of the effect."""
        return math.sqrt(self.arm.variance + self.control.variance)

    @property
    def information(self) -> float:
        """How many independent responses in two equal arms would give this standard error: 4 s² / error².

        The clock of the always-valid intervals. It goes on when units answer again, not only when new ones
        come, as the canonical joint distribution of estimates at many looks asks for (Scharfstein, Tsiatis
        and Robins 1997, JASA 92).
        """
        return 4 * self.spread / self.error**2

    @property
    def relative(self) -> float | None:
        """Effect over the control's mean, None where that is zero."""
        return self.effect / self.control.mean if self.control.mean else None

    def interval(self, multiple: float) -> Interval:
        """Effect ± ``multiple`` standard errors."""
        return self.effect - multiple * self.error, self.effect + multiple * self.error

    def relative_interval(self, multiple: float) -> Interval | None:
        """All r for which arm - (1 + r) · control lies within ``multiple`` of its standard errors of zero.

        Fieller 1954 (JRSS B 16): exact where the two means are normal, and valid at every look where
        ``multiple`` is. None where the control's mean is not told apart from zero: any ratio may be then.
        """
        control, arm = self.control, self.arm
        a = control.mean**2 - multiple**2 * control.variance
        if a <= 0:
            return None
        b = control.mean * arm.mean
        root = math.sqrt(max(0.0, b * b - a * (arm.mean**2 - multiple**2 * arm.variance)))
        return (b - root) / a - 1, (b + root) / a - 1


def contrast(
    means: np.ndarray,
    arm: np.ndarray,
    version: np.ndarray,
    pair: tuple[int, int],
    spread: float,
    *,
    smoothed: bool = False,
    plain: bool = False,
) -> Contrast | None:
    """Control ``pair[0]`` against arm ``pair[1]``. means: [u], a unit's mean, NaN where it has none; arm,
    version: [u].

    Shares change with versions, and so may everything else with time: units are compared within the version
    under which they came, and the differences averaged with weights n₀n₁/(n₀+n₁), the ones of Cochran 1954
    (Biometrics 10). smoothed: variances as if each arm of a version had one more 0 and one more 1 (Agresti
    and Caffo 2000, The American Statistician 54), so that counts of none do not look certain.

    None where no version has two units of each arm, or nothing varies.
    """
    known = np.isfinite(means)
    parts = []
    for number in np.unique(version[known]):
        now = known & (version == number)
        sides = [means[now & (arm == which)] for which in pair]
        if min(len(side) for side in sides) >= 2:
            parts.append(sides)
    if not parts:
        return None
    sizes = np.array([[len(side) for side in sides] for sides in parts], float)  # [versions, 2]
    weights = sizes.prod(1) / sizes.sum(1)
    weights /= weights.sum()
    averages = np.array([[side.mean() for side in sides] for sides in parts])
    variances = np.array([[_variance_of_mean(side, smoothed) for side in sides] for sides in parts])
    parts_of_error = weights[:, None] ** 2 * variances
    control, treated = (
        Side(float(weights @ averages[:, i]), float(parts_of_error[:, i].sum())) for i in (0, 1)
    )
    total = control.variance + treated.variance
    # Rounding leaves a little where all values are alike.
    if total <= 1e-24 * max(control.mean**2, treated.mean**2):
        return None
    freedom = total**2 / (parts_of_error**2 / (sizes - 1)).sum()
    units = int(sizes[:, 0].sum()), int(sizes[:, 1].sum())
    return Contrast(control, treated, float(freedom), spread, units, plain and len(parts) == 1)


def _variance_of_mean(values: np.ndarray, smoothed: bool) -> float:
    if smoothed:
        values = np.append(values, (0.0, 1.0))
    return float(values.var(ddof=1) / len(values))


def within(values: np.ndarray, groups: np.ndarray) -> float:
    """Variance of ``values`` [m] about the means of their ``groups`` [m]; 0 of fewer values than groups."""
    sums, counts = np.bincount(groups, weights=values), np.bincount(groups)
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    left = len(values) - int((counts > 0).sum())
    return float(((values - means[groups]) ** 2).sum() / left) if left > 0 else 0.0


@dataclass(frozen=True)
class Fixed:
    """What one look at the end would say. multiple: standard errors either side that it is made of."""

    low: float
    high: float
    p_value: float
    multiple: float


def fixed_horizon(found: Contrast, alpha: float) -> Fixed:
    """Welch's t-test on unit means (Welch 1947, Biometrika 34); for counts the pooled two-proportion z-test
    with Newcombe's interval (1998, Statistics in Medicine 17, method 10)."""
    if found.plain:
        return _proportions(found, alpha)
    reach = float(stats.t.ppf(1 - alpha / 2, found.freedom))
    p = float(2 * stats.t.sf(abs(found.effect) / found.error, found.freedom))
    return Fixed(*found.interval(reach), p, reach)


def _proportions(found: Contrast, alpha: float) -> Fixed:
    sides: Sequence[Side] = (found.control, found.arm)
    hits = [round(side.mean * n) for side, n in zip(sides, found.units, strict=True)]
    (p0, low0, high0), (p1, low1, high1) = (
        (hit / n, *_wilson(hit, n, alpha)) for hit, n in zip(hits, found.units, strict=True)
    )
    pooled = sum(hits) / sum(found.units)
    error = math.sqrt(pooled * (1 - pooled) * sum(1 / n for n in found.units))
    p = float(2 * stats.norm.sf(abs(p1 - p0) / error)) if error else 1.0
    effect, reach = p1 - p0, float(stats.norm.ppf(1 - alpha / 2))
    low, high = effect - math.hypot(p1 - low1, high0 - p0), effect + math.hypot(high1 - p1, p0 - low0)
    return Fixed(low, high, p, reach)


def _wilson(hits: int, n: int, alpha: float) -> Interval:
    found = stats.binomtest(hits, n).proportion_ci(1 - alpha, method="wilson")
    return float(found.low), float(found.high)
