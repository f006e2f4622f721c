"""What to do about each arm, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serve.experiments.statistics.contrasts import Contrast
from serve.experiments.statistics.figures import percent, span
from serve.experiments.statistics.power import still_needed
from serve.experiments.statistics.report import (
    ArmOnMetric,
    ArmReport,
    Guardrail,
    MetricReport,
    SampleRatio,
    Verdict,
)
from serve.experiments.statistics.sequences import LEAST


def decide(
    primary: MetricReport,
    guardrails: Sequence[Guardrail],
    ratio: SampleRatio | None,
    arms: Sequence[ArmReport],
    contrasts: Mapping[str, Contrast],
) -> list[Verdict]:
    """A verdict for every arm but the control. contrasts: on the primary metric, by arm.

    A mismatch of sample ratios comes before everything.
    """
    control = next(row.arm for row in primary.arms if row.decision == "control")
    verdicts = []
    for row in primary.arms:
        if row.arm == control:
            continue
        if ratio is not None and ratio.alarm:
            verdicts.append(Verdict(arm=row.arm, verdict="distrust", text=_distrust(ratio, arms)))
            continue
        rails = [rail for rail in guardrails if rail.arm == row.arm]
        held = (row.always_valid_low, row.always_valid_high)
        waiting, needed = _waiting(primary, row, control, contrasts.get(row.arm))
        verdicts.append(
            judge(primary, row, control, rails, ("always-valid interval", *held), waiting, needed)
        )
    return verdicts


def sentences(verdicts: Sequence[Verdict]) -> str:
    """All verdicts as one text, what is said of several arms once."""
    return " ".join(dict.fromkeys(verdict.text for verdict in verdicts))


def judge(
    primary: MetricReport,
    row: ArmOnMetric,
    control: str,
    rails: Sequence[Guardrail],
    held: tuple[str, float | None, float | None],
    waiting: str,
    needed: int | None,
) -> Verdict:
    """One arm's verdict. held: the interval that decides, its name before it; waiting: what to say without a
    decision; needed: units still missing then.

    A broken guardrail comes before a gain. An arm that is better is recommended once every guardrail is known
    to hold.
    """
    broken = [rail for rail in rails if rail.status == "broken"]
    if broken:
        told = "; ".join(rail_text(rail) for rail in broken)
        return Verdict(arm=row.arm, verdict="stop", text=f"{row.arm}: {told}: stop that arm.")
    if row.decision == "undecided":
        return Verdict(arm=row.arm, verdict="wait", text=waiting, needed=needed)
    finding = _finding(primary, row, control, held)
    if row.decision == "worse":
        return Verdict(arm=row.arm, verdict="keep", text=f"{finding}: keep {control}.")
    told = "".join(f"; {rail_text(rail)}" for rail in rails)
    if any(rail.status == "undecided" for rail in rails):
        text = f"{finding}{told}: wait, or switch if you can bear that."
        return Verdict(arm=row.arm, verdict="wait", text=text)
    return Verdict(arm=row.arm, verdict="switch", text=f"{finding}{told}: switch.")


def _distrust(ratio: SampleRatio, arms: Sequence[ArmReport]) -> str:
    found = ", ".join(f"{arm.name} {arm.units:,}" for arm in arms)
    return (
        f"Do not trust these figures: units did not fall to the arms by their shares ({found}; p = "
        f"{ratio.p_value:.2g}). Look for what loses requests or records of one arm."
    )


def _finding(
    primary: MetricReport, row: ArmOnMetric, control: str, held: tuple[str, float | None, float | None]
) -> str:
    verb = "beats" if row.decision == "better" else "is worse than"
    unit = primary.unit and f" {primary.unit}"
    name, low, high = held
    return (
        f"{row.arm} {verb} {control} on {primary.name} by {row.effect:+.3g}{unit} "
        f"({100 * primary.level:.4g} % {name} {span(low, high)})"
    )


def rail_text(rail: Guardrail) -> str:
    if rail.value is None:
        value = "unknown"
    else:
        value = f"{percent(abs(rail.value))} {'better' if rail.value < 0 else 'worse'}"
    limit = f"its guardrail of {percent(rail.limit)}"
    return (
        f"{rail.metric} "
        + {
            "ok": f"{value}, within {limit}",
            "broken": f"{value}, beyond {limit}",
            "undecided": f"so far {value}, not yet certain to stay within {limit}",
        }[rail.status]
    )


def _waiting(
    primary: MetricReport, row: ArmOnMetric, control: str, found: Contrast | None
) -> tuple[str, int | None]:
    """What to say while nothing is decided, and how many units are missing."""
    start = f"No decision yet on {row.arm} against {control}"
    if found is None:
        return f"{start}: {primary.name} is known of less than two units an arm, or does not vary.", None
    if row.always_valid_low is None:
        known = f"{found.units[1]:,} and {found.units[0]:,} units"
        return f"{start}: {primary.name} is known of {known}, and {LEAST} of each arm are the least.", None
    held = span(row.always_valid_low, row.always_valid_high)
    so_far = f"{primary.name} {found.effect:+.3g}{primary.unit and ' ' + primary.unit}, {held}"
    times = still_needed(found.effect, found.error, found.information, 1 - primary.level)
    if times is None:
        return f"{start} ({so_far}): no difference in sight.", None
    more = round(sum(found.units) * (times - 1))
    return f"{start} ({so_far}): about {more:,} more units if the effect stays what it looks like.", more
