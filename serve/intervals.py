"""Averages over tasks with bootstrap intervals, arms paired prompt by prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from serve.evaluate import Scores

RESAMPLES = 10_000
Means = np.ndarray
"""Mean score by task and resample, [tasks, n]."""


@dataclass(frozen=True)
class Interval:
    """A figure with its bootstrap interval. NaN where it has no meaning."""

    value: float
    low: float
    high: float


def paired_interval(a: Scores, b: Scores, seed: int = 0) -> Interval:
    """``a`` minus ``b``, averaged over tasks, in points of 100, 95 %."""
    return bootstrap((a, b), lambda a, b: 100 * (a - b).mean(0), seed)


def normalised(arm: Scores, own: Scores, seed: int = 0) -> Interval:
    """Score as percent of the own expert's, averaged over the tasks in which the own expert has any."""
    return bootstrap((arm, own), lambda arm, own: 100 * _share(arm, own), seed)


def recovered(arm: Scores, base: Scores, own: Scores, seed: int = 0) -> Interval:
    """(arm - base) / (own - base) in percent, averaged over the tasks that the own expert improves."""
    return bootstrap((arm, base, own), lambda arm, base, own: 100 * _share(arm - base, own - base), seed)


def bootstrap(
    arms: Sequence[Scores], statistic: Callable[..., np.ndarray], seed: int = 0, alpha: float = 0.05
) -> Interval:
    """``statistic`` of the arms' ``Means``, [n]: prompts are resampled within each task, the same ones for
    all arms (Efron 1979, percentile method). The interval holds ``1 - alpha`` of the resamples."""
    generator = np.random.default_rng(seed)
    drawn: list[list[np.ndarray]] = [[] for _ in arms]
    for task in arms[0].hits:
        count = len(arms[0].hits[task])
        chosen = generator.integers(0, count, (RESAMPLES, count))
        for means, arm in zip(drawn, arms, strict=True):
            means.append(arm.hits[task][chosen].mean(1))
    resampled = statistic(*(np.stack(means) for means in drawn))
    exact = statistic(*(np.array([[arm.mean(task)] for task in arm.hits]) for arm in arms))
    if np.isnan(exact).any():
        return Interval(np.nan, np.nan, np.nan)
    low, high = np.nanpercentile(resampled, [50 * alpha, 100 - 50 * alpha])
    return Interval(float(exact[0]), float(low), float(high))


def _share(part: Means, whole: Means) -> np.ndarray:
    """part / whole, averaged over the tasks where ``whole`` is positive, [n]; NaN where there is none."""
    counts = whole > 0
    shares = np.divide(part, whole, out=np.zeros_like(part), where=counts)
    number = counts.sum(0)
    return np.divide(shares.sum(0), number, out=np.full(number.shape, np.nan), where=number > 0)
