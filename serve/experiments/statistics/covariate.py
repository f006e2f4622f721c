"""CUPED: what a unit was like before the experiment explains part of what it is like in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serve.experiments.records import Feedback, Served
from serve.experiments.spec import Metric
from serve.experiments.statistics.observations import known, told


@dataclass(frozen=True)
class Adjustment:
    """What to take off each unit's mean, [u], and the share of the variance that is left."""

    shift: np.ndarray
    left: float


def earlier_means(
    metrics: Sequence[Metric], served: Iterable[Served], feedback: Iterable[Feedback], until: float
) -> dict[str, dict[str, float]]:
    """metric -> unit -> its mean over responses before ``until``, in whichever experiment and arm."""
    records = {record.response: record for record in served if record.moment < until and not record.shadow}
    said, _ = told(records, (one for one in feedback if one.moment < until))
    found: dict[str, dict[str, list[float]]] = {metric.name: {} for metric in metrics}
    for record in records.values():
        for metric in metrics:
            value = known(metric, record, said.get(record.response, ()))
            if value is not None:
                found[metric.name].setdefault(record.unit, []).append(value[0])
    return {
        metric: {unit: float(np.mean(values)) for unit, values in means.items()}
        for metric, means in found.items()
    }


def adjust(
    means: np.ndarray, groups: np.ndarray, names: Sequence[str], earlier: Mapping[str, float]
) -> Adjustment | None:
    """Deng, Xu, Kohavi and Walker 2013 (WSDM): θ (x - x̄), θ = cov(x, y) / var(x), both within groups.

    means: [u], NaN where a unit has none; groups: [u], arm and version; earlier: x by unit. A unit without x
    is left as it is, which is to give it x̄. None where fewer than half of the units have x, x does not vary,
    or nothing would be gained.
    """
    x = np.array([earlier.get(name, np.nan) for name in names], float)
    used = np.isfinite(x) & np.isfinite(means)
    if used.sum() < 3 or 2 * used.sum() < np.isfinite(means).sum():
        return None
    x_within, y_within = _centred(x[used], groups[used]), _centred(means[used], groups[used])
    variance = float(x_within @ x_within)
    if variance <= 1e-24 * float(x[used] @ x[used]):
        return None
    theta = float(x_within @ y_within) / variance
    shift = np.where(used, theta * (x - x[used].mean()), 0.0)
    finite = np.isfinite(means)
    before = float((_centred(means[finite], groups[finite]) ** 2).sum())
    after = float((_centred((means - shift)[finite], groups[finite]) ** 2).sum())
    return Adjustment(shift, after / before) if after < before else None


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    _, places = np.unique(groups, return_inverse=True)
    return values - (np.bincount(places, weights=values) / np.bincount(places))[places]
