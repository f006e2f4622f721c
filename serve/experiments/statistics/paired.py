"""The report of a replay: arms compared prompt by prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from scipy import stats

from serve.evaluate import Scores
from serve.experiments.statistics.guardrails import Status
from serve.experiments.statistics.replay import Timed
from serve.experiments.statistics.report import (
    ArmOnMetric,
    ArmReport,
    Decision,
    Guardrail,
    MetricReport,
    Report,
    TaskRow,
)
from serve.experiments.statistics.verdicts import judge, sentences
from serve.intervals import Interval, bootstrap

ALPHA = 0.05
EXACT, LATENCY = "exact_match", "latency"


def paired_report(
    name: str,
    found: Mapping[str, Timed],
    models: Mapping[str, str],
    *,
    now: float,
    guardrail: float | None = None,
) -> Report:
    """found: arm -> exact match and latencies of the same prompts, the control first. models: arm -> model.
    guardrail: of the latency, 0.2 for a fifth; None guards nothing. now: seconds since 1970.

    Means are over tasks, all weighing alike, as in ``twinserve eval``. Intervals are paired bootstrap ones
    (Efron 1979), p-values McNemar's exact ones (1947, Psychometrika 12). Exact match is told apart where both
    say so: the bootstrap of a handful of prompts that agree would be certain of anything.
    """
    control, *others = found
    alpha = ALPHA / len(others)
    prompts = sum(len(hits) for hits in found[control][0].hits.values())
    metrics = [
        _metric(EXACT, 0, "higher", found, alpha, None, primary=True),
        _metric(LATENCY, 1, "lower", found, ALPHA, guardrail, primary=False),
    ]
    rails = [
        _guardrail(arm, found[control][1], found[arm][1], guardrail)
        for arm in others
        if guardrail is not None
    ]
    verdicts = []
    for row in metrics[0].arms[1:]:
        text, needed = _waiting(row, control, prompts)
        own = [rail for rail in rails if rail.arm == row.arm]
        held = ("paired bootstrap interval", row.low, row.high)
        verdicts.append(judge(metrics[0], row, control, own, held, text, needed))
    notes = [
        "Every arm answered every prompt, one request at a time; means are over tasks, all weighing alike."
    ]
    if len(others) > 1:
        level = f"{100 * (1 - alpha):.4g} %"
        notes.append(
            f"{len(others)} arms are compared with the control, on {EXACT} at {level} each (Bonferroni)."
        )
    return Report(
        name=name,
        version=1,
        state="replayed",
        design="paired",
        unit="prompt",
        control=control,
        alpha=ALPHA,
        moment=now,
        started=None,
        latest=None,
        arms=[
            ArmReport(name=arm, model=models[arm], share=1, units=prompts, responses=prompts) for arm in found
        ],
        metrics=metrics,
        guardrails=rails,
        tasks=[*_tasks(EXACT, 0, found), *_tasks(LATENCY, 1, found)],
        srm=None,
        verdicts=verdicts,
        decision=sentences(verdicts),
        notes=notes,
    )


def mcnemar(control: np.ndarray, arm: np.ndarray) -> float:
    """Exact two-sided p-value that two paired rows of 0 and 1 differ by chance: a binomial test of the pairs
    that disagree; 1 where none do."""
    gained, lost = int(((arm == 1) & (control == 0)).sum()), int(((arm == 0) & (control == 1)).sum())
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _metric(
    name: str,
    place: Literal[0, 1],
    direction: Literal["higher", "lower"],
    found: Mapping[str, Timed],
    alpha: float,
    guardrail: float | None,
    *,
    primary: bool,
) -> MetricReport:
    control, *others = found
    base = found[control][place]
    count = sum(len(values) for values in base.hits.values())
    rows = [ArmOnMetric(arm=control, units=count, mean=base.average, decision="control")]
    for arm in others:
        own = found[arm][place]
        difference = bootstrap((own, base), _difference, alpha=alpha)
        ratio = bootstrap((own, base), _worse, alpha=alpha)
        known = not math.isnan(ratio.value)
        p = mcnemar(_all(base), _all(own)) if place == 0 else None
        rows.append(
            ArmOnMetric(
                arm=arm,
                units=count,
                mean=own.average,
                effect=difference.value,
                low=difference.low,
                high=difference.high,
                p_value=p,
                relative=ratio.value if known else None,
                relative_low=ratio.low if known else None,
                relative_high=ratio.high if known else None,
                decision="undecided" if p is not None and p >= alpha else _decision(difference, direction),
            )
        )
    kind: Literal["binary", "numeric"] = "binary" if place == 0 else "numeric"
    return MetricReport(
        name=name,
        direction=direction,
        kind=kind,
        guardrail=guardrail,
        unit="s" if place == 1 else "",
        primary=primary,
        level=1 - alpha,
        arms=rows,
    )


def _all(scores: Scores) -> np.ndarray:
    return np.concatenate(list(scores.hits.values()))


def _difference(arm: np.ndarray, control: np.ndarray) -> np.ndarray:
    """[tasks, n] each, to [n]."""
    return np.asarray((arm - control).mean(0))


def _worse(arm: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Mean over tasks, relative to the control's; NaN where that is zero."""
    a, c = arm.mean(0), control.mean(0)
    return np.divide(a - c, c, out=np.full_like(c, np.nan), where=c != 0)


def _decision(difference: Interval, direction: Literal["higher", "lower"]) -> Decision:
    if difference.low <= 0 <= difference.high:
        return "undecided"
    return "better" if (difference.low > 0) == (direction == "higher") else "worse"


def _guardrail(arm: str, control: Scores, own: Scores, limit: float) -> Guardrail:
    # Both ends of 90 % are one-sided bounds of 95 %.
    ratio = bootstrap((own, control), _worse, alpha=2 * ALPHA)
    status: Status = "ok" if ratio.high < limit else "broken" if ratio.low > limit else "undecided"
    return Guardrail(metric=LATENCY, arm=arm, status=status, limit=limit, value=ratio.value)


def _tasks(metric: str, place: Literal[0, 1], found: Mapping[str, Timed]) -> list[TaskRow]:
    control = next(iter(found))
    rows = []
    for task in found[control][place].hits:
        one = {arm: Scores({task: timed[place].hits[task]}) for arm, timed in found.items()}
        for arm, own in one.items():
            differences = own.hits[task] - one[control].hits[task]
            # Prompts that all say the same leave nothing to resample.
            shown = np.ptp(differences) > 0
            difference = bootstrap((own, one[control]), _difference, alpha=ALPHA) if shown else None
            rows.append(
                TaskRow(
                    task=task,
                    arm=arm,
                    metric=metric,
                    units=len(own.hits[task]),
                    mean=own.average,
                    effect=float(differences.mean()) if arm != control else None,
                    low=difference.low if difference else None,
                    high=difference.high if difference else None,
                )
            )
    return rows


def _waiting(row: ArmOnMetric, control: str, prompts: int) -> tuple[str, int | None]:
    assert row.effect is not None and row.low is not None and row.high is not None
    start = f"No difference shown between {row.arm} and {control} on {EXACT} by {prompts:,} prompts"
    text = f"{start} ({row.effect:+.3g}, {row.low:+.3g} … {row.high:+.3g})"
    if not row.effect:
        return f"{text}.", None
    times = ((row.high - row.low) / 2 / row.effect) ** 2
    more = max(1, round(prompts * (times - 1)))
    return f"{text}: about {more:,} more of the kind if the effect stays what it looks like.", more
