"""What a router was chosen from and what it measured, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, select_autoescape

# Of a plot, in pixels.
SIDE, MARGIN = 260, 36


def page(
    report: Mapping[str, Any],
    tasks: Sequence[str],
    end: Mapping[str, Any] | None = None,
    seconds: float | None = None,
    loss: Mapping[str, Any] | None = None,
) -> str:
    """HTML of a router's ``report`` (``router.train`` or ``router.dataless``), one file, no scripts.

    end, seconds, loss: from ``twinserve eval``: the effect on answers, arm -> task -> exact match, 0 to 1;
    what 1,000 routings take; and what the merged model loses without routing, by task predicted and
    measured (``compress.predictedloss.beside_measured``).
    """
    environment = Environment(autoescape=select_autoescape(default=True, default_for_string=True))
    template = environment.from_string(
        files("router").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        report=report,
        tasks=list(tasks),
        end=end,
        seconds=seconds,
        loss=loss if loss and loss["tasks"] else None,
        side=SIDE,
        margin=MARGIN,
        reliability=[
            {**row, "x": _x(row["confidence"]), "y": _y(row["accuracy"])}
            for row in report.get("reliability", [])
        ],
        abstention=_curve(report.get("abstention", [])),
    )


def _x(share: float) -> float:
    return round(MARGIN + share * SIDE, 1)


def _y(share: float) -> float:
    return round(MARGIN / 2 + (1 - share) * SIDE, 1)


def _curve(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The abstention curve's points, its accuracies spread over the plot's height."""
    if not rows:
        return {}
    # From a little below the worst, so that the curve's shape is seen.
    low = min(0.99, max(0.0, min(row["accuracy"] for row in rows) - 0.02))
    points = [(_x(row["rejected"]), _y((row["accuracy"] - low) / (1 - low))) for row in rows]
    return {"low": low, "points": points, "line": " ".join(f"{x},{y}" for x, y in points)}
