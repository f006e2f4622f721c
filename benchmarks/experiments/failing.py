"""Simulated requests that fail, and when a canary's alarm is raised over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from serve.experiments.statistics.failures import Failures, failing

ALPHA = 0.05


@dataclass(frozen=True)
class Asked:
    """Requests in the order in which they come: unit, and the share that the arm has then, [n]; whether the
    request fails if the arm answers it, and if the control does, [n]. place: of each unit, in [0, 1); it has
    the arm while that lies below the share."""

    unit: np.ndarray
    share: np.ndarray
    in_arm: np.ndarray
    in_control: np.ndarray
    place: np.ndarray

    @property
    def has_arm(self) -> np.ndarray:
        """Whether the arm answers, [n]."""
        return self.place[self.unit] < self.share

    @property
    def failed(self) -> np.ndarray:
        """Whether the request fails, [n]."""
        return np.where(self.has_arm, self.in_arm, self.in_control)


Draw = Callable[[np.random.Generator, int], Asked]
"""n requests."""


def once(share: float, control: float, arm: float) -> Draw:
    """Units that come once each, whose requests fail at these rates."""

    def draw(generator: np.random.Generator, n: int) -> Asked:
        luck, shares = generator.random(n), np.full(n, share)
        return Asked(np.arange(n), shares, luck < arm, luck < control, generator.random(n))

    return draw


def outages(share: float) -> Draw:
    """Units that come once each. One request in a hundred fails, and in five outages all do, whatever the
    arm; each lasts for a hundredth of the time."""

    def draw(generator: np.random.Generator, n: int) -> Asked:
        failed = generator.random(n) < 0.01
        for start in generator.integers(0, n, 5):
            failed[start : start + n // 100] = True
        return Asked(np.arange(n), np.full(n, share), failed, failed, generator.random(n))

    return draw


def hopeless(*shares: float) -> Draw:
    """A tenth as many units as requests, half of which come at the same rate all the time, the others some
    rate between none and three times that. Of one in fifty all requests fail, whatever the arm. shares: the
    arm has each for the same time."""

    def draw(generator: np.random.Generator, n: int) -> Asked:
        units = n // 10
        often = np.where(generator.random(units) < 0.5, 1.0, 3 * generator.random(units))
        unit = generator.choice(units, n, p=often / often.sum())
        failed = (generator.random(units) < 0.02)[unit]
        return Asked(unit, np.repeat(shares, n // len(shares)), failed, failed, generator.random(units))

    return draw


def alarm(asked: Asked, by_request: bool = False) -> int | None:
    """The number of the request after which the alarm is raised; None where it never is. It is looked at
    after every request. by_request: every failure counts, and not a unit's first alone."""
    events = np.flatnonzero(asked.failed)
    if not by_request:
        events = np.sort(events[np.unique(asked.unit[events], return_index=True)[1]])
    counts: dict[float, list[int]] = {}
    for event in events:
        arm, of_share = asked.has_arm[event], counts.setdefault(float(asked.share[event]), [0, 0])
        of_share[0 if arm else 1] += 1
        # A failure of the control is no evidence against the arm.
        if arm and failing([Failures(share, *both) for share, both in counts.items()], 0.0, ALPHA):
            return int(event) + 1
    return None


def exact_test(asked: Asked) -> bool:
    """Whether Fisher's exact test, one-sided at the same level, finds the arm to fail more often after some
    request."""
    n, arm = np.arange(1, len(asked.unit) + 1), np.cumsum(asked.has_arm)
    failed, both = np.cumsum(asked.failed), np.cumsum(asked.failed & asked.has_arm)
    looks = np.flatnonzero(asked.failed & asked.has_arm)
    p = stats.hypergeom.sf(both[looks] - 1, n[looks], failed[looks], arm[looks])
    return bool((p < ALPHA).any())
