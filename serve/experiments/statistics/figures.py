"""How a report's figures are written, the same in the terminal and on the page."""

from __future__ import annotations

import datetime

from compress.compose import BASE

# design -> (name of the always-valid intervals, of the others, what those by task are worth)
METHODS = {
    "randomised": ("always-valid", "at the end", "one look at the end, not corrected: hints, no decisions"),
    "paired": ("", "paired bootstrap", "not corrected for their number: hints, no decisions"),
}
NONE = "–"


def named(task: str) -> str:
    """A task, in words where it is none."""
    return "(no expert)" if task == BASE else task


def number(value: float | None) -> str:
    """Three digits."""
    return NONE if value is None else f"{value:.3g}"


def effect(value: float | None) -> str:
    """Three digits with a sign."""
    return NONE if value is None else f"{value:+.3g}"


def percent(value: float | None, *, signed: bool = False) -> str:
    """A share as percent."""
    if value is None:
        return NONE
    return f"{100 * value:+.3g} %" if signed else f"{100 * value:.3g} %"


def span(low: float | None, high: float | None) -> str:
    """An interval."""
    return NONE if low is None or high is None else f"{low:+.3g} … {high:+.3g}"


def shares(low: float | None, high: float | None) -> str:
    """An interval of a share."""
    return NONE if low is None or high is None else f"{100 * low:.3g} … {percent(high)}"


def p_text(value: float | None) -> str:
    """A p-value."""
    if value is None:
        return NONE
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def at(moment: float | None) -> str:
    """A moment as UTC, to the minute."""
    if moment is None:
        return NONE
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
