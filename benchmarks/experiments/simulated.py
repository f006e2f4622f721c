"""What the simulations share: their chance, and how their figures are told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from rich.progress import track
from rich.table import Table
from scipy import stats


def generators(name: str, tests: int) -> Iterable[np.random.Generator]:
    """A source of chance for each test, the same every time."""
    seed = [ord(letter) for letter in name]
    for number in track(range(tests), description=name, transient=True):
        yield np.random.default_rng([*seed, number])


def share_of(claims: Iterable[bool]) -> dict[str, float]:
    """A share with its 95 % Wilson interval."""
    hits = [bool(claim) for claim in claims]
    interval = stats.binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return {"share": sum(hits) / len(hits), "low": float(interval.low), "high": float(interval.high)}


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """Rows by the names of their columns, for the terminal."""
    made = Table(title=title, title_justify="left")
    for place, column in enumerate(rows[0]):
        made.add_column(column, justify="left" if place == 0 else "right")
    for row in rows:
        made.add_row(*map(_cell, row.values()))
    return made


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return f"{100 * value['share']:.1f} ({100 * value['low']:.1f}–{100 * value['high']:.1f})"
    return value if isinstance(value, str) else f"{value:,.0f}"
