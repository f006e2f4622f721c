"""From records to a report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from serve.experiments.records import Feedback, Served
from serve.experiments.spec import Experiment
from serve.experiments.statistics.covariate import earlier_means
from serve.experiments.statistics.metricview import MetricView
from serve.experiments.statistics.mismatch import ALARM, mismatch
from serve.experiments.statistics.mismatch import p_value as mismatch_p_value
from serve.experiments.statistics.observations import Observations, observe
from serve.experiments.statistics.report import ArmReport, Excluded, MetricReport, Report, SampleRatio
from serve.experiments.statistics.shadows import shadowed
from serve.experiments.statistics.verdicts import decide, sentences


def analyse(
    experiment: Experiment,
    served: Iterable[Served],
    feedback: Iterable[Feedback],
    *,
    now: float,
    shares: Mapping[int, Mapping[str, float]] | None = None,
    before: tuple[Iterable[Served], Iterable[Feedback]] | None = None,
    state: str = "running",
) -> Report:
    """What the records say of every arm against the control, unit of assignment by unit of assignment.

    now: seconds since 1970; what was recorded later is left out. shares: by version and arm, where versions
    differ; otherwise only units that came under the newest version are held against the experiment's shares.
    before: records of the same units from before the experiment, for CUPED. state: shown
    as it is.

    Raises InputError for values that are not finite, or not 0 or 1 where they are declared binary.
    """
    records = [one for one in served if one.moment <= now]
    seen = observe(
        experiment,
        records,
        (one for one in feedback if one.moment <= now),
    )
    started = float(seen.seen.min()) if len(seen.seen) else None
    earlier = (
        earlier_means(experiment.metrics, *before, until=started) if before and started is not None else {}
    )
    views = [
        MetricView.of(experiment, metric, seen, earlier.get(metric.name, {})) for metric in experiment.metrics
    ]
    arms = [
        ArmReport(
            name=arm.name,
            model=arm.model,
            share=arm.share,
            units=int((seen.arm == place).sum()),
            responses=int(seen.responses[seen.arm == place].sum()),
        )
        for place, arm in enumerate(experiment.arms)
    ]
    metrics = [view.report() for view in views]
    guardrails = [rail for view in views for rail in view.guardrails()]
    ratio = sample_ratio(experiment, seen, shares)
    verdicts = decide(metrics[0], guardrails, ratio, arms, views[0].contrasts)
    latest = None if math.isnan(seen.latest) else seen.latest
    return Report(
        name=experiment.name,
        version=int(seen.first_version.max()) if len(seen.first_version) else 1,
        state=state,
        design="randomised",
        unit=experiment.unit,
        control=experiment.baseline,
        alpha=experiment.alpha,
        moment=now,
        started=started,
        latest=latest,
        arms=arms,
        metrics=metrics,
        over_time={view.metric.name: view.over_time() for view in views},
        guardrails=guardrails,
        tasks=[row for view in views for row in view.tasks()],
        shadow=shadowed(experiment, records),
        srm=ratio,
        excluded=Excluded(mixed=seen.mixed, shadows=seen.shadows, unmatched=seen.unmatched),
        verdicts=verdicts,
        decision=sentences(verdicts),
        notes=_notes(experiment, metrics),
    )


def sample_ratio(
    experiment: Experiment,
    seen: Observations,
    shares: Mapping[int, Mapping[str, float]] | None,
) -> SampleRatio | None:
    if not len(seen.first_arm):
        return None
    versions = shares or {int(seen.first_version.max()): {arm.name: arm.share for arm in experiment.arms}}
    total = 0.0
    for version, expected in versions.items():
        came = seen.first_arm[seen.first_version == version]
        counts = {arm.name: int((came == place).sum()) for place, arm in enumerate(experiment.arms)}
        total += mismatch(counts, expected)
    p = mismatch_p_value(total)
    return SampleRatio(p_value=p, alarm=p < ALARM)


def _notes(experiment: Experiment, metrics: list[MetricReport]) -> list[str]:
    level = f"{100 * metrics[0].level:.4g} %"
    notes = [
        "Units of assignment are compared, each by the mean of its responses. Always-valid intervals may be "
        "looked at as often as you like, the others once, at an end fixed beforehand."
    ]
    if len(experiment.arms) > 2:
        notes.append(
            f"{len(experiment.arms) - 1} arms are compared with the control: on {metrics[0].name} each has "
            f"an interval of {level}, so that all of them hold together (Bonferroni)."
        )
    if any(row.variance_left is not None for metric in metrics for row in metric.arms):
        notes.append("Effects are adjusted by what the same units did before the experiment (CUPED).")
    return notes
