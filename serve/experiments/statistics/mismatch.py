"""Sample ratio mismatch: whether units fell to the arms as often as their shares say, at every look."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import betaln, gammaln

# The usual threshold: a mismatch is a broken experiment, to be told seldom and with certainty.
ALARM = 0.001
# Weight of the prior about the shares, in units: deviations of about 1/√1000 are found soonest.
CONCENTRATION = 1000.0


def mismatch(counts: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """Logarithm of the Bayes factor against the shares: a Dirichlet prior around them, multinomial counts.

    counts, shares: by arm; shares sum to 1. Lindon and Malek 2022 (NeurIPS, arXiv:2011.03567). Infinite where
    an arm of share zero has units. Factors of independent counts multiply.
    """
    arms = [arm for arm, share in shares.items() if share > 0]
    if any(count for arm, count in counts.items() if arm not in arms):
        return float(np.inf)
    n = np.array([counts.get(arm, 0) for arm in arms], float)
    theta = np.array([shares[arm] for arm in arms])
    prior = CONCENTRATION * theta
    return float(_log_beta(prior + n) - _log_beta(prior) - n @ np.log(theta))


def p_value(log_factor: float) -> float:
    """Always-valid p-value: one over the Bayes factor, at most 1. It may be looked at after every unit, as
    Pearson's chi-square may not, which would raise the alarm sooner or later."""
    return float(np.exp(-max(0.0, log_factor)))


def _log_beta(a: np.ndarray) -> float:
    return float(betaln(a[0], a[1])) if len(a) == 2 else float(gammaln(a).sum() - gammaln(a.sum()))
