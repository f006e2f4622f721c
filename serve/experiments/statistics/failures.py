"""Whether requests of one arm fail more often than the control's, from the first failure on.

Always-valid intervals of means need a hundred units an arm before they mean anything, and an arm that does
nothing but fail must not get them. Assignment is what helps: it is random, with shares that are known. Where
the arms fail alike, the arm in which a unit fails for the first time is drawn by the shares, whatever makes
units fail and however often: an outage meets all arms, and a unit that fails a thousand times counts once. So
of units that fail, π = s₁ / (s₁ + s₀) should have the arm of share s₁ rather than the control of share s₀.

The null is an arm whose units fail at most 1 + tolerance times as often as the control's, so at most the
share π₀ = ω / (1 + ω) with odds ω = (1 + tolerance) s₁ / s₀ of those that fail. Against it bet alternatives
whose odds are r times as large, q = r ω / (1 + r ω). Each failure multiplies such a bet's wealth by q / π₀
where the unit has the arm, and by (1 - q) / (1 - π₀) where it has the control; that has an expectation of at
most 1 under the null. The mean wealth over ``RATIOS`` is then a test martingale (or falls), and exceeds 1/α
at any look with probability α at most (Ville's inequality). Nothing is asymptotic, and shares may change from
failure to failure.

The e-variables for 2×2 tables of Turner, Ly and Grünwald 2021 (arXiv:2106.02693) need neither random
assignment nor shares. They take outcomes in blocks of fixed sizes, though, ninety-nine of the control for one
of an arm of 1 %, and each as independent, as those of a user who returns are not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

# From 19 % more failures than are tolerated to a thousand times as many, evenly in their logarithm. A
# constant, because bets that are chosen after a look at the data promise nothing.
RATIOS = 2.0 ** (np.arange(1, 41) / 4)
# One failure of an arm with a small share may be evidence enough, and is still no pattern.
FEWEST = 2


@dataclass(frozen=True)
class Failures:
    """Units that failed for the first time while the arms had these shares. arm, control: how many of each.
    share: of the arm among both, in (0, 1)."""

    share: float
    arm: int
    control: int


def log_wealth(failures: Iterable[Failures], tolerance: float = 0.0) -> float:
    """Logarithm of the evidence against an arm that fails at most 1 + ``tolerance`` times as often."""
    bets = np.zeros(len(RATIOS))
    for seen in failures:
        odds = (1 + tolerance) * seen.share / (1 - seen.share)
        of_control = np.log1p(odds) - np.log1p(RATIOS * odds)
        bets += (seen.arm + seen.control) * of_control + seen.arm * np.log(RATIOS)
    return float(logsumexp(bets) - np.log(len(RATIOS)))


def failing(failures: Iterable[Failures], tolerance: float, alpha: float) -> bool:
    """Whether the arm fails more often than is tolerated; wrong with probability ``alpha`` at most, over all
    looks."""
    known = list(failures)
    enough = sum(seen.arm for seen in known) >= FEWEST
    return enough and log_wealth(known, tolerance) >= -np.log(alpha)
