"""twinserve experiment power: how many units an experiment needs."""

from __future__ import annotations

import math
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

Share = Annotated[float, typer.Option(help="Of the units, in the arm that is compared; the rest is control.")]


def power(
    effect: Annotated[
        float, typer.Option(help="The smallest difference worth finding, in the metric's units.")
    ],
    baseline: Annotated[
        float | None, typer.Option(help="The control's rate, 0 to 1, for a binary metric.")
    ] = None,
    deviation: Annotated[
        float | None, typer.Option(help="Standard deviation of a unit's mean, for a numeric metric.")
    ] = None,
    share: Share = 0.5,
    alpha: Annotated[float, typer.Option(help="Risk of a difference that is none.")] = 0.05,
    probability: Annotated[float, typer.Option("--power", help="To find the effect.")] = 0.8,
    per_day: Annotated[float | None, typer.Option(help="Units that come in a day.")] = None,
) -> None:
    """Tell how many units find an effect: with daily looks, and with one look at the end.

    Example: twinserve experiment power --baseline 0.6 --effect 0.05 --per-day 200
    """
    from serve.experiments.statistics.power import units_needed

    if (baseline is None) == (deviation is None):
        raise typer.BadParameter("give --baseline for a binary metric or --deviation for a numeric one")
    if per_day is not None and per_day <= 0:
        raise typer.BadParameter("--per-day must be above 0")
    deviations = (deviation, deviation) if deviation is not None else _of_rates(baseline, effect)
    table = Table(title=f"to find {effect:+g} with probability {probability:g}", title_justify="left")
    for place, column in enumerate(
        ["looks", "units in all", "of them in the arm", *(["days"] if per_day else [])]
    ):
        table.add_column(column, justify="left" if place == 0 else "right")
    for looks, always_valid in (("as often as you like", True), ("one, at the end", False)):
        units = units_needed(
            effect, deviations, share=share, alpha=alpha, power=probability, always_valid=always_valid
        )
        cells = [f"{units:,}", f"{math.ceil(units * share):,}"]
        cells += [f"{units / per_day:,.1f}"] if per_day else []
        table.add_row(looks, *cells)
    Console().print(table)


def _of_rates(baseline: float | None, effect: float) -> tuple[float, float]:
    assert baseline is not None
    for what, rate in (("--baseline", baseline), ("--baseline and --effect together", baseline + effect)):
        if not 0 < rate < 1:
            raise typer.BadParameter(f"{what} make a rate of {rate:g}; it must lie between 0 and 1")
    return tuple(math.sqrt(rate * (1 - rate)) for rate in (baseline, baseline + effect))  # type: ignore[return-value]
