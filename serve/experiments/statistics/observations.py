"""Records as arrays: what each unit of assignment was shown, when, and what was measured of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compress.compose import BASE
from compress.errors import InputError
from serve.experiments.records import Feedback, Served
from serve.experiments.spec import AUTOMATIC, Experiment, Metric

Known = tuple[float, float]
"""A value, and the moment from which it is known."""


@dataclass(frozen=True)
class Values:
    """One metric of all responses that have it, m of them: unit and task [m] as indices, -1 where the task is
    not known, value [m], moment [m] from which the value is known, in seconds since 1970."""

    unit: np.ndarray
    task: np.ndarray
    value: np.ndarray
    moment: np.ndarray


@dataclass(frozen=True)
class Observations:
    """Units [u] that saw one arm only, in the order in which they came, with what is known of them.

    arm, version: [u], index of the arm, number of the experiment's version under which the unit came first.
    seen: [u], moment of its first response. responses: [u], how many it had. first_arm, first_version: the
    same of all units [u + mixed], those that saw several arms included. names: of the units [u].
    """

    names: Sequence[str]
    arm: np.ndarray
    version: np.ndarray
    seen: np.ndarray
    responses: np.ndarray
    first_arm: np.ndarray
    first_version: np.ndarray
    tasks: tuple[str, ...]
    metrics: Mapping[str, Values]
    mixed: int
    shadows: int
    unmatched: int
    latest: float


def observe(experiment: Experiment, served: Iterable[Served], feedback: Iterable[Feedback]) -> Observations:
    """Join records by response and sort them by unit.

    Left out: answers that nobody saw (counted as ``shadows``), records of other experiments and arms, a
    response's second record, units that saw several arms (``mixed``), feedback on responses that are not
    there (``unmatched``). Of several pieces of feedback with one key the latest counts, the mean over keys is
    the response's value. Raises InputError for a value that is not finite, or neither 0 nor 1 where the
    metric is binary.
    """
    arms = {arm.name: place for place, arm in enumerate(experiment.arms)}
    records: dict[str, Served] = {}
    shadows = 0
    for record in served:
        if record.experiment != experiment.name or record.arm not in arms:
            continue
        if record.shadow:
            shadows += 1
        else:
            records.setdefault(record.response, record)
    ordered = sorted(records.values(), key=lambda record: record.moment)
    said, unmatched = told(records, feedback)
    first: dict[str, Served] = {}
    mixed: set[str] = set()
    for record in ordered:
        if first.setdefault(record.unit, record).arm != record.arm:
            mixed.add(record.unit)
    units = {unit: place for place, unit in enumerate(unit for unit in first if unit not in mixed)}
    tasks = _tasks(ordered)
    kept = [record for record in ordered if record.unit in units]
    counts = np.bincount([units[record.unit] for record in kept], minlength=len(units))
    chosen = [first[unit] for unit in units]
    return Observations(
        names=list(units),
        arm=np.array([arms[record.arm] for record in chosen], int),
        version=np.array([record.version for record in chosen], int),
        seen=np.array([record.moment for record in chosen], float),
        responses=counts,
        first_arm=np.array([arms[record.arm] for record in first.values()], int),
        first_version=np.array([record.version for record in first.values()], int),
        tasks=tasks,
        metrics={metric.name: _values(metric, kept, said, units, tasks) for metric in experiment.metrics},
        mixed=len(mixed),
        shadows=shadows,
        unmatched=unmatched,
        latest=ordered[-1].moment if ordered else math.nan,
    )


def _tasks(records: Sequence[Served]) -> tuple[str, ...]:
    # What no expert was trusted with stands last.
    known = {record.task for record in records if record.task is not None}
    return tuple(sorted(known, key=lambda task: (task == BASE, task)))


def told(
    records: Mapping[str, Served], feedback: Iterable[Feedback]
) -> tuple[dict[str, list[Feedback]], int]:
    """What was said of each response, the latest of each key; and how much of it was of no response here."""
    latest: dict[tuple[str, str], Feedback] = {}
    unmatched = 0
    for said in feedback:
        if said.response not in records:
            unmatched += 1
            continue
        key = (said.response, said.key)
        if key not in latest or latest[key].moment <= said.moment:
            latest[key] = said
    by_response: dict[str, list[Feedback]] = {}
    for said in latest.values():
        by_response.setdefault(said.response, []).append(said)
    return by_response, unmatched


def _values(
    metric: Metric,
    records: Sequence[Served],
    said: Mapping[str, Sequence[Feedback]],
    units: Mapping[str, int],
    tasks: Sequence[str],
) -> Values:
    places = {task: place for place, task in enumerate(tasks)}
    found = []
    for record in records:
        value = known(metric, record, said.get(record.response, ()))
        if value is not None:
            task = -1 if record.task is None else places[record.task]
            found.append((units[record.unit], task, *value))
    columns = np.array(found, float).reshape(-1, 4)
    return Values(columns[:, 0].astype(int), columns[:, 1].astype(int), columns[:, 2], columns[:, 3])


def known(metric: Metric, record: Served, said: Sequence[Feedback]) -> Known | None:
    """The metric of one response. What the server measures is the server's to say; the rest is feedback's."""
    name = metric.name
    if name in AUTOMATIC:
        if name not in record.metrics:
            return None
        return _checked(metric, record.metrics[name], record.response), record.moment
    values = [
        (_checked(metric, one.metrics[name], record.response), one.moment)
        for one in said
        if name in one.metrics
    ]
    if not values:
        return None
    return math.fsum(value for value, _ in values) / len(values), max(moment for _, moment in values)


def _checked(metric: Metric, value: float, response: str) -> float:
    if not math.isfinite(value):
        raise InputError(
            f"response {response}: its {metric.name} is {value}; only finite numbers can be compared, so "
            "correct or delete that record"
        )
    if metric.kind == "binary" and value not in (0, 1):
        raise InputError(
            f"response {response}: its {metric.name} is {value:g}, and the experiment declares it binary, "
            "0 or 1; correct that record or declare the metric numeric"
        )
    return float(value)


def unit_means(values: Values, units: int, keep: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Each unit's mean and how many responses it is the mean of, [units]; NaN of none. keep: [m], which
    responses count."""
    unit, value = (values.unit, values.value) if keep is None else (values.unit[keep], values.value[keep])
    counts = np.bincount(unit, minlength=units)
    sums = np.bincount(unit, weights=value, minlength=units)
    return np.divide(sums, counts, out=np.full(units, np.nan), where=counts > 0), counts
