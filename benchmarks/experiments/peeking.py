"""One simulated experiment, looked at after every batch of responses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import chdtrc, stdtrit

from benchmarks.experiments.traffic import Traffic
from serve.experiments.statistics.contrasts import Contrast, Side, contrast, within
from serve.experiments.statistics.guardrails import status
from serve.experiments.statistics.mismatch import ALARM, mismatch, p_value
from serve.experiments.statistics.observations import Values, unit_means
from serve.experiments.statistics.sequences import LEAST, multiple

ALPHA = 0.05
FEWER = 25


@dataclass
class Seen:
    """What some look has claimed. fixed: a difference, by Welch's test, which is made for one look; last: the
    same at the last look alone; by_response: there, with responses taken for units. early, first: a
    difference by the always-valid interval, from ``FEWER`` units of each arm on, and the number of responses
    at which it came first from ``LEAST`` on, None where it never came."""

    fixed: bool = False
    last: bool = False
    by_response: bool = False
    early: bool = False
    first: int | None = None


def contrast_at(traffic: Traffic, count: int, binary: bool) -> Contrast | None:
    """The arms on the first ``count`` responses, computed as a report computes it."""
    unit, value = traffic.unit[:count], traffic.value[:count]
    none = np.zeros(count)
    means, _ = unit_means(Values(unit, none, value, none), len(traffic.arm))
    of = traffic.arm[unit]
    if binary:
        value, of = np.append(value, (0, 1, 0, 1)), np.append(of, (0, 0, 1, 1))
    version = np.ones(len(traffic.arm), int)
    return contrast(means, traffic.arm, version, (0, 1), within(value, of), smoothed=binary)


def contrasts(traffic: Traffic, every: int, binary: bool) -> Iterator[tuple[int, Contrast | None]]:
    """(responses so far, the arms on them), after every ``every`` responses. Of units that come once each, by
    running sums, for the sake of time; tests hold them to ``contrast_at``."""
    counts = np.arange(every, len(traffic.unit) + 1, every)
    if len(traffic.unit) > len(traffic.arm):
        yield from ((int(count), contrast_at(traffic, int(count), binary)) for count in counts)
        return
    mine = np.stack([traffic.arm == arm for arm in (0, 1)])
    n, total, square = (
        np.cumsum(mine * power, axis=1)[:, counts - 1]
        for power in (np.ones(len(traffic.arm)), traffic.value, traffic.value**2)
    )
    mean = total / np.maximum(n, 1)
    # One more 0 and one more 1 of binary metrics.
    size, total, square = (n + 2, total + 1, square + 1) if binary else (n, total, square)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (square - total**2 / size) / (size - 1)
        parts = variance / size
        freedom = parts.sum(0) ** 2 / (parts**2 / (n - 1)).sum(0)
        spread = (variance * (size - 1)).sum(0) / (size.sum(0) - 2)
    for look, count in enumerate(counts):
        if n[:, look].min() < 2 or parts[:, look].sum() <= 0:
            yield int(count), None
            continue
        control, arm = (Side(float(mean[i, look]), float(parts[i, look])) for i in (0, 1))
        units = int(n[0, look]), int(n[1, look])
        yield int(count), Contrast(control, arm, float(freedom[look]), float(spread[look]), units)


def watched(traffic: Traffic, every: int, binary: bool) -> Seen:
    """Look after every ``every`` responses."""
    seen = Seen()
    for count, found in contrasts(traffic, every, binary):
        if found is None:
            continue
        z = abs(found.effect) / found.error
        seen.last = bool(z > stdtrit(found.freedom, 1 - ALPHA / 2))
        seen.fixed |= seen.last
        if min(found.units) >= FEWER and z > multiple(found.information, ALPHA):
            seen.early = True
            if min(found.units) >= LEAST and seen.first is None:
                seen.first = count
    sides = [traffic.value[traffic.arm[traffic.unit] == arm] for arm in (0, 1)]
    seen.by_response = bool(stats.ttest_ind(*sides, equal_var=False).pvalue < ALPHA)
    return seen


def guarded(traffic: Traffic, every: int, tolerance: float) -> set[str]:
    """All that a guardrail on a metric for which lower is better has ever said."""
    return {
        status(found, "lower", tolerance, ALPHA)
        for _, found in contrasts(traffic, every, False)
        if found is not None and min(found.units) >= LEAST
    }


def alarmed(arm: np.ndarray, shares: tuple[float, float], every: int) -> tuple[bool, bool]:
    """Whether some look raised the alarm of a sample ratio mismatch: ours, and Pearson's chi-square test at
    the same threshold. arm: [u] of 0 and 1."""
    ours = pearson = False
    for count in range(every, len(arm) + 1, every):
        treated = int(arm[:count].sum())
        counts = (count - treated, treated)
        named = dict(zip("ct", counts, strict=True))
        ours |= p_value(mismatch(named, dict(zip("ct", shares, strict=True)))) < ALARM
        expected = [count * share for share in shares]
        distance = sum((n - e) ** 2 / e for n, e in zip(counts, expected, strict=True))
        pearson |= bool(chdtrc(1, distance) < ALARM)
    return ours, pearson
