"""One metric of all arms: effects, guardrails, the course over time and the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.experiments.spec import Experiment, Metric
from serve.experiments.statistics.contrasts import Contrast, contrast, fixed_horizon, within
from serve.experiments.statistics.covariate import Adjustment, adjust
from serve.experiments.statistics.guardrails import status, worsening
from serve.experiments.statistics.observations import Observations, Values, unit_means
from serve.experiments.statistics.report import (
    UNITS,
    ArmOnMetric,
    Guardrail,
    MetricReport,
    Point,
    TaskRow,
)
from serve.experiments.statistics.sequences import LEAST, multiple, p_value

MOMENTS = 60


@dataclass(frozen=True)
class MetricView:
    """One metric of all arms. contrasts: by the arm's name; alpha: of one arm's intervals."""

    experiment: Experiment
    metric: Metric
    seen: Observations
    values: Values
    adjustment: Adjustment | None
    alpha: float
    contrasts: Mapping[str, Contrast]

    @classmethod
    def of(
        cls, experiment: Experiment, metric: Metric, seen: Observations, earlier: Mapping[str, float]
    ) -> MetricView:
        values = seen.metrics[metric.name]
        primary = metric is experiment.metrics[0]
        alpha = experiment.alpha / (len(experiment.arms) - 1) if primary else experiment.alpha
        means, _ = unit_means(values, len(seen.arm))
        groups = seen.arm + len(experiment.arms) * seen.version
        adjustment = adjust(means, groups, seen.names, earlier) if earlier else None
        view = cls(experiment, metric, seen, values, adjustment, alpha, {})
        found = {arm: view._contrast(arm) for arm in view._others()}
        return cls(
            experiment, metric, seen, values, adjustment, alpha, {arm: c for arm, c in found.items() if c}
        )

    def _others(self) -> list[str]:
        return [arm.name for arm in self.experiment.arms if arm.name != self.experiment.baseline]

    def _place(self, name: str) -> int:
        return [arm.name for arm in self.experiment.arms].index(name)

    def _contrast(self, arm: str, keep: np.ndarray | None = None) -> Contrast | None:
        """``arm`` against the control, on the responses in ``keep`` [m]."""
        seen, binary = self.seen, self.metric.kind == "binary"
        means, counts = unit_means(self.values, len(seen.arm), keep)
        if self.adjustment:
            means = means - self.adjustment.shift
        plain = binary and self.adjustment is None and bool((counts <= 1).all())
        pair = self._place(self.experiment.baseline), self._place(arm)
        return contrast(
            means, seen.arm, seen.version, pair, self._spread(pair, keep), smoothed=binary, plain=plain
        )

    def _spread(self, pair: tuple[int, int], keep: np.ndarray | None) -> float:
        values, of = self.values.value, self.seen.arm[self.values.unit]
        mine = np.isin(of, pair) if keep is None else np.isin(of, pair) & keep
        values, of = values[mine], of[mine]
        if self.metric.kind == "binary":
            # As in the contrast: one more 0 and one more 1 in each arm.
            values, of = np.append(values, (0, 1, 0, 1)), np.append(of, np.repeat(pair, 2))
        return within(values, of) if len(values) else 0.0

    def report(self) -> MetricReport:
        metric = self.metric
        return MetricReport(
            name=metric.name,
            direction=metric.direction,
            kind=metric.kind,
            guardrail=metric.guardrail,
            unit=UNITS.get(metric.name, ""),
            primary=metric is self.experiment.metrics[0],
            level=1 - self.alpha,
            arms=[self._row(arm.name) for arm in self.experiment.arms],
        )

    def _row(self, arm: str) -> ArmOnMetric:
        means, _ = unit_means(self.values, len(self.seen.arm))
        own = means[(self.seen.arm == self._place(arm)) & np.isfinite(means)]
        known: dict[str, Any] = {"units": len(own), "mean": float(own.mean()) if len(own) else None}
        if arm == self.experiment.baseline:
            return ArmOnMetric(arm=arm, decision="control", **known)
        found = self.contrasts.get(arm)
        if found is None:
            return ArmOnMetric(arm=arm, **known)
        fixed = fixed_horizon(found, self.alpha)
        relative = found.relative_interval(fixed.multiple)
        row = {
            "arm": arm,
            **known,
            "effect": found.effect,
            "low": fixed.low,
            "high": fixed.high,
            "p_value": fixed.p_value,
            "relative": found.relative,
            **_named("relative", relative),
            "variance_left": self.adjustment.left if self.adjustment else None,
        }
        if min(found.units) >= LEAST:
            reach = multiple(found.information, self.alpha)
            low, high = found.interval(reach)
            row |= _named("always_valid", (low, high))
            row |= _named("always_valid_relative", found.relative_interval(reach))
            row["always_valid_p"] = p_value(found.effect / found.error, found.information, self.alpha)
            if low > 0 or high < 0:
                row["decision"] = "better" if (low > 0) == (self.metric.direction == "higher") else "worse"
        return ArmOnMetric.model_validate(row)

    def guardrails(self) -> list[Guardrail]:
        limit = self.metric.guardrail
        if limit is None:
            return []
        return [self._guardrail(arm, limit) for arm in self._others()]

    def _guardrail(self, arm: str, limit: float) -> Guardrail:
        found, direction = self.contrasts.get(arm), self.metric.direction
        judged = found is not None and min(found.units) >= LEAST
        return Guardrail(
            metric=self.metric.name,
            arm=arm,
            limit=limit,
            value=worsening(found, direction) if found else None,
            status=status(found, direction, limit, self.experiment.alpha)
            if found and judged
            else "undecided",
        )

    def over_time(self) -> list[Point]:
        """At up to ``MOMENTS`` moments, evenly from the first value to the last."""
        known = self.values.moment
        if not len(known):
            return []
        points = []
        for moment in np.unique(np.linspace(known.min(), known.max(), MOMENTS + 1)[1:]):
            keep = known <= moment
            for arm in self._others():
                found = self._contrast(arm, keep)
                if found is not None and min(found.units) >= LEAST:
                    low, high = found.interval(multiple(found.information, self.alpha))
                    points.append(Point(moment=moment, arm=arm, effect=found.effect, low=low, high=high))
        return points

    def tasks(self) -> list[TaskRow]:
        return [
            row
            for place, task in enumerate(self.seen.tasks)
            for arm in self.experiment.arms
            if (row := self._task(place, task, arm.name)) is not None
        ]

    def _task(self, place: int, task: str, arm: str) -> TaskRow | None:
        keep = self.values.task == place
        means, _ = unit_means(self.values, len(self.seen.arm), keep)
        own = means[(self.seen.arm == self._place(arm)) & np.isfinite(means)]
        if not len(own):
            return None
        found = None if arm == self.experiment.baseline else self._contrast(arm, keep)
        fixed = fixed_horizon(found, self.experiment.alpha) if found else None
        return TaskRow(
            task=task,
            arm=arm,
            metric=self.metric.name,
            units=len(own),
            mean=float(own.mean()),
            effect=found.effect if found else None,
            low=fixed.low if fixed else None,
            high=fixed.high if fixed else None,
        )


def _named(name: str, interval: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}
