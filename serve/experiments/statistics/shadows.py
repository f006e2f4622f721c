"""What an arm says that nobody sees, held against what clients saw of the same requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from scipy import stats

from serve.experiments.records import Served
from serve.experiments.spec import Experiment
from serve.experiments.statistics.report import ShadowReport, ShadowRow

Pair = tuple[Served, Served]
"""What a client saw, and the shadow beside it."""


def shadowed(experiment: Experiment, served: Iterable[Served]) -> ShadowReport | None:
    """Agreement of the shadow with what it stood beside, in all and by the task that the router saw. None
    where the experiment has no shadow. Records that lack their other half are left out."""
    if experiment.shadow is None:
        return None
    found = paired(experiment, served)
    failed = sum(behind.metrics.get("error", 0.0) == 1 for _, behind in found)
    whole = [pair for pair in found if "agreement" in pair[1].metrics]
    tasks = sorted({task for pair in whole if (task := _task(pair)) is not None})
    return ShadowReport(
        arm=experiment.shadow.arm,
        failed=failed,
        rows=[
            _row(None, whole, experiment.alpha),
            *(
                _row(task, [pair for pair in whole if _task(pair) == task], experiment.alpha)
                for task in tasks
            ),
        ],
    )


def paired(experiment: Experiment, served: Iterable[Served]) -> list[Pair]:
    """The experiment's shadows with what they stood beside, the oldest first."""
    own = [record for record in served if record.experiment == experiment.name]
    seen = {record.response: record for record in own if not record.shadow}
    behind = sorted((record for record in own if record.shadow), key=lambda record: record.moment)
    return [(seen[one.beside], one) for one in behind if one.beside in seen]


def _task(pair: Pair) -> str | None:
    front, behind = pair
    return behind.task or front.task


def _row(task: str | None, pairs: Sequence[Pair], alpha: float) -> ShadowRow:
    if not pairs:
        return ShadowRow(task=task, pairs=0)
    agreed = sum(behind.metrics["agreement"] == 1 for _, behind in pairs)
    interval = stats.binomtest(agreed, len(pairs)).proportion_ci(1 - alpha, method="wilson")
    return ShadowRow(
        task=task,
        pairs=len(pairs),
        agreement=agreed / len(pairs),
        low=float(interval.low),
        high=float(interval.high),
        latency=_mean(front for front, _ in pairs),
        shadow_latency=_mean(behind for _, behind in pairs),
    )


def _mean(records: Iterable[Served]) -> float | None:
    known = [record.metrics["latency"] for record in records if "latency" in record.metrics]
    return fmean(known) if known else None
