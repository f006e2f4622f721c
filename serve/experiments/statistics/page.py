"""A report as one HTML file: no scripts, nothing loaded."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, select_autoescape

from serve.experiments.statistics import figures
from serve.experiments.statistics.report import Point, Report
from serve.experiments.statistics.table import beside

# Of a plot, in pixels.
WIDTH, HEIGHT, MARGIN = 560, 200, 8
# Room for the labels of the vertical axis.
LABELS = 64


def page(report: Report) -> str:
    """HTML of ``report``, complete in itself."""
    environment = Environment(
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        name: getattr(figures, name)
        for name in ("named", "number", "effect", "percent", "span", "shares", "p_text", "at")
    }
    source = files("serve").joinpath("experiments/statistics/templates/experiment.html.j2")
    always, fixed, tasks = figures.METHODS[report.design]
    return environment.from_string(source.read_text(encoding="utf-8")).render(
        report=report,
        plots={metric.name: _plots(report, metric.name) for metric in report.metrics},
        lines=[*beside(report), *report.notes],
        always=always,
        fixed=fixed,
        by_task=tasks,
        width=WIDTH + LABELS,
        height=HEIGHT + 24,
        labels=LABELS,
    )


def _plots(report: Report, metric: str) -> list[dict[str, Any]]:
    """A plot for every arm that has more than one point."""
    points = report.over_time.get(metric, [])
    arms = dict.fromkeys(point.arm for point in points)
    drawn = [_plot(arm, [point for point in points if point.arm == arm]) for arm in arms]
    return [plot for plot in drawn if len(plot["points"]) > 1]


def _plot(arm: str, points: Sequence[Point]) -> dict[str, Any]:
    # The first intervals are so wide that the later ones would be lines: cut what lies far outside.
    last = points[-1]
    reach = 4 * (last.high - last.low)
    low = min(0.0, max(min(p.low for p in points), last.effect - reach))
    high = max(0.0, min(max(p.high for p in points), last.effect + reach))
    first, length = points[0].moment, (last.moment - points[0].moment) or 1.0

    def x(moment: float) -> float:
        return round(LABELS + (moment - first) / length * (WIDTH - MARGIN), 1)

    def y(value: float) -> float:
        inside = min(high, max(low, value))
        return round(MARGIN + (high - inside) / ((high - low) or 1.0) * (HEIGHT - 2 * MARGIN), 1)

    band = [(x(p.moment), y(p.high)) for p in points] + [(x(p.moment), y(p.low)) for p in reversed(points)]
    return {
        "arm": arm,
        "points": points,
        "band": " ".join(f"{a},{b}" for a, b in band),
        "line": " ".join(f"{x(p.moment)},{y(p.effect)}" for p in points),
        "zero": y(0),
        "ticks": _apart([(y(value), value) for value in (0.0, last.effect, low, high)]),
        "ends": (x(first), x(last.moment)),
    }


def _apart(ticks: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of ``ticks`` whose labels do not cover an earlier one's."""
    kept: list[tuple[float, float]] = []
    for y, value in ticks:
        if all(abs(y - other) > 12 for other, _ in kept):
            kept.append((y, value))
    return kept
