"""A report in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serve.experiments.statistics.figures import (
    METHODS,
    at,
    effect,
    named,
    number,
    p_text,
    percent,
    shares,
    span,
)
from serve.experiments.statistics.report import MetricReport, Report, ShadowReport


def print_report(report: Report, console: Console) -> None:
    """Arms, every metric with its intervals, guardrails, tasks, and what to do."""
    title = f"{report.name}, version {report.version}: {report.state}, {at(report.moment)}"
    console.print(title, highlight=False, markup=False)
    console.print(_arms(report))
    for metric in report.metrics:
        console.print(_metric(report, metric))
    if report.guardrails:
        console.print(_guardrails(report))
    if report.tasks:
        console.print(_tasks(report))
    if report.shadow is not None:
        console.print(_shadow(report.shadow))
    for line in (*beside(report), *report.notes):
        console.print(line, highlight=False, markup=False)
    console.print(report.decision, style="bold", highlight=False, markup=False)


def beside(report: Report) -> list[str]:
    """Where a canary is, whether units fell as they should, and what was not compared, one line each."""
    lines = [] if report.canary is None else [report.canary]
    if report.srm is not None:
        found = "ALARM" if report.srm.alarm else "as declared"
        lines.append(f"shares of the arms: {found}, always-valid p = {p_text(report.srm.p_value)}")
    told = [
        (report.excluded.mixed, "units that saw several arms"),
        (report.excluded.shadows, "answers that nobody saw"),
        (report.excluded.unmatched, "pieces of feedback on responses that are not recorded"),
    ]
    if any(count for count, _ in told):
        lines.append("left out: " + ", ".join(f"{count:,} {what}" for count, what in told if count))
    return lines


def _table(title: str, *columns: str, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < left else "right")
    return table


def _add(table: Table, *cells: str) -> None:
    # As Text: names of tasks are anybody's, and brackets would be markup.
    table.add_row(*map(Text, cells))


def _arms(report: Report) -> Table:
    table = _table("arms", "arm", "model", "share", f"{report.unit}s", "responses", left=2)
    for arm in report.arms:
        name = f"{arm.name} (control)" if arm.name == report.control else arm.name
        _add(table, name, arm.model, percent(arm.share), f"{arm.units:,}", f"{arm.responses:,}")
    return table


def _metric(report: Report, metric: MetricReport) -> Table:
    always, fixed, _ = METHODS[report.design]
    unit = metric.unit and f", {metric.unit}"
    title = f"{metric.name}{unit}: {metric.direction} is better{', decides' if metric.primary else ''}"
    level = f"{100 * metric.level:.4g} %"
    columns = ["arm", "units", "mean", "effect", "relative", f"{level} {fixed}", "p"]
    table = _table(title, *columns, *([f"{level} {always}"] if always else []), "so")
    for row in metric.arms:
        cells = [row.arm, f"{row.units:,}", number(row.mean), effect(row.effect)]
        cells += [percent(row.relative, signed=True), span(row.low, row.high), p_text(row.p_value)]
        cells += [span(row.always_valid_low, row.always_valid_high)] if always else []
        _add(table, *cells, row.decision)
    return table


def _guardrails(report: Report) -> Table:
    table = _table("guardrails", "metric", "arm", "worse by", "at most", "", left=2)
    for rail in report.guardrails:
        _add(table, rail.metric, rail.arm, percent(rail.value, signed=True), percent(rail.limit), rail.status)
    return table


def _tasks(report: Report) -> Table:
    title = f"by task: {METHODS[report.design][2]}"
    table = _table(title, "task", "metric", "arm", "units", "mean", "effect", "interval", left=3)
    for row in report.tasks:
        cells = (named(row.task), row.metric, row.arm, f"{row.units:,}", number(row.mean))
        _add(table, *cells, effect(row.effect), span(row.low, row.high))
    return table


def _shadow(shadow: ShadowReport) -> Table:
    title = f"{shadow.arm} in the shadow"
    table = _table(title, "task", "pairs", "same text", "interval", "latency, s", "shadow's, s")
    for row in shadow.rows:
        cells = ["all" if row.task is None else named(row.task), f"{row.pairs:,}", percent(row.agreement)]
        cells += [shares(row.low, row.high), number(row.latency), number(row.shadow_latency)]
        _add(table, *cells)
    if shadow.failed:
        table.caption = f"{shadow.failed:,} failed"
    return table
