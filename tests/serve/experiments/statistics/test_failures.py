"""The alarm over failures keeps its promise exactly, by enumeration of all that chance can do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from serve.experiments.statistics.failures import FEWEST, Failures, failing, log_wealth

ALPHA = 0.05
SHARES = [0.0003, 0.01, 0.05, 0.2, 0.5, 0.9]


def under_null(share: float, tolerance: float) -> float:
    """The arm's share of failing units where it fails exactly as often as is tolerated."""
    odds = (1 + tolerance) * share / (1 - share)
    return odds / (1 + odds)


def ever(share: float, tolerance: float, chance: float, failures: int) -> float:
    """Probability of an alarm at some of so many looks, one after each failure; each has the arm with that
    chance. By the distribution of the arm's count among the paths without an alarm so far."""
    alive, alarmed = np.ones(1), 0.0
    for n in range(1, failures + 1):
        alive = np.append(alive * (1 - chance), 0) + np.append(0, alive * chance)
        # The more of them have the arm, the greater the evidence.
        for arm in np.flatnonzero(alive)[::-1]:
            if not failing([Failures(share, int(arm), n - int(arm))], tolerance, ALPHA):
                break
            alarmed += alive[arm]
            alive[arm] = 0
    return alarmed


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("tolerance", [0.0, 0.5])
def test_the_expected_wealth_is_one(share, tolerance):
    n = 60
    chances = stats.binom.pmf(np.arange(n + 1), n, under_null(share, tolerance))
    wealth = [math.exp(log_wealth([Failures(share, arm, n - arm)], tolerance)) for arm in range(n + 1)]
    assert chances @ wealth == pytest.approx(1, rel=1e-6)


def test_shares_that_change_leave_the_expected_wealth_one():
    first, then, n = 0.05, 0.4, 12
    total = 0.0
    for a in range(n + 1):
        for b in range(n + 1):
            wealth = math.exp(log_wealth([Failures(first, a, n - a), Failures(then, b, n - b)]))
            total += stats.binom.pmf(a, n, first) * stats.binom.pmf(b, n, then) * wealth
    assert total == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("tolerance", [0.0, 0.5])
def test_a_look_after_every_failure_is_wrong_seldom_enough(share, tolerance):
    limit = ever(share, tolerance, under_null(share, tolerance), 80)
    assert limit <= ALPHA
    assert ever(share, tolerance, under_null(share, tolerance) / 2, 80) <= limit, "a better arm"


@pytest.mark.parametrize(("share", "most"), [(0.01, 2), (0.05, 2), (0.2, 3), (0.5, 5)])
def test_an_arm_that_does_nothing_but_fail_is_found_by_a_handful_of_units(share, most):
    found = next(arm for arm in range(1, 50) if failing([Failures(share, arm, 0)], 0.0, ALPHA))
    assert found == most
    # The control's failures make it later, and do not hide it.
    assert any(failing([Failures(share, arm, 10)], 0.0, ALPHA) for arm in range(1, 100))


def test_twice_as_many_failures_are_found_and_tolerated_where_that_was_declared():
    assert ever(0.5, 0.0, 2 / 3, 250) > 0.95
    assert ever(0.5, 1.0, 2 / 3, 80) <= ALPHA


def test_the_control_s_failures_are_no_evidence():
    alone = log_wealth([Failures(0.5, 5, 0)])
    assert all(log_wealth([Failures(0.5, 5, control)]) < alone for control in range(1, 20))
    assert not failing([Failures(0.2, 0, 500)], 0.0, ALPHA) and not failing([], 0.0, ALPHA)


def test_one_failure_is_no_pattern():
    assert log_wealth([Failures(0.0003, 1, 0)]) > math.log(1 / ALPHA)
    assert not failing([Failures(0.0003, FEWEST - 1, 0)], 0.0, ALPHA)
