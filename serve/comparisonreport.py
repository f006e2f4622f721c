"""A comparison as tables, and as figures for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from serve.armcosts import NEW_TOKENS, REQUESTS, Cost
from serve.comparison import Comparison
from serve.intervals import Interval, normalised, paired_interval, recovered

Costs = Mapping[str, Cost]
FALLBACKS = {"shared": "the shared base", "base": "the pretrained base"}


def print_comparison(title: str, result: Comparison, costs: Costs, console: Console) -> None:
    """Exact match of every arm, what it costs, how far the dynamic arm is ahead of it, and all of it by
    task, in as many tables as the console is wide."""
    console.print(_summary(title, result, costs))
    for line in _notes(result, costs):
        console.print(line, highlight=False)
    arms, first = list(result.scores), max(map(len, (*result.tasks, "task")))
    fit = max(1, (console.width - first - 4) // (max(map(len, arms)) + 3))
    for start in range(0, len(arms), fit):
        console.print(_by_task(result, arms[start : start + fit]))


def _summary(title: str, result: Comparison, costs: Costs) -> Table:
    table = Table(title=f"{title}: exact match in %", title_justify="left")
    table.add_column("arm")
    columns = ["average", "of own", "recovered", "× base"] + (["tokens/s", "GB"] if costs else [])
    for column in (*columns, "dynamic minus it"):
        table.add_column(column, justify="right", no_wrap=True)
    for arm, scores in result.scores.items():
        against = _against(result, arm)
        cells = [100 * scores.average, against["normalised"].value, against["recovered"].value]
        row = [*map(_percent, cells), f"{result.storage[arm]:.2f}"]
        if costs:
            cost = costs.get(arm)
            row += ["", ""] if cost is None else [_speed(cost), f"{cost.peak_bytes / 1e9:.2f}"]
        gain = against["dynamic_minus"]
        told = "" if arm == "dynamic" else f"{gain.value:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"
        table.add_row(arm, *row, told)
    return table


def _by_task(result: Comparison, arms: Sequence[str]) -> Table:
    table = Table()
    for column in ("task", *arms):
        table.add_column(column, justify="left" if column == "task" else "right", no_wrap=True)
    for task in result.tasks:
        table.add_row(task, *(_percent(100 * result.scores[arm].mean(task)) for arm in arms))
    return table


def _speed(cost: Cost) -> str:
    return f"{cost.tokens_per_second:.0f}"


def _notes(result: Comparison, costs: Costs) -> list[str]:
    dynamic, policy = result.scores["dynamic"], result.policy
    blended = f"up to {policy.top_k} experts, alone from {policy.certain:g} on"
    lines = [
        f"{sum(result.prompts.values())} prompts; of own: percent of the own expert's score; recovered: "
        "(score − base) / (own − base); both averaged over tasks; dynamic minus it: points, with the paired "
        "95 % bootstrap interval",
        "× base: every byte an arm needs, over the base's parameters × 2 bytes",
        f"dynamic: the bundle's own policy ({'one expert' if policy.top_k == 1 else blended}; below "
        f"{policy.threshold:g} {FALLBACKS[policy.fallback]})",
    ]
    if dynamic.routed_right is not None and dynamic.null_share is not None:
        lines.append(
            f"router: {100 * dynamic.routed_right:.1f} % of prompts to their own expert, "
            f"{100 * dynamic.null_share:.1f} % to none"
        )
    if result.sweep:
        tried = ", ".join(f"{scaling:g}: {100 * mean:.1f}" for scaling, mean in result.sweep.items())
        lines.append(f"static scaling {result.static_scaling:g} is the best on development prompts ({tried})")
    if costs:
        lines.append(
            f"tokens/s, and GB of memory at most: {REQUESTS} prompts of all tasks at once, {NEW_TOKENS} new "
            "tokens each, a process an arm"
        )
    return lines


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1f}"


def _against(result: Comparison, arm: str) -> dict[str, Interval]:
    scores, own = result.scores[arm], result.scores["own"]
    return {
        "normalised": normalised(scores, own),
        "recovered": recovered(scores, result.scores["base"], own),
        "dynamic_minus": paired_interval(result.scores["dynamic"], scores),
    }


def figures(result: Comparison, costs: Costs) -> dict[str, Any]:
    """The same figures for programs. Shares and differences are {value, low, high} in points of 100, null
    where they have no meaning."""
    dynamic = result.scores["dynamic"]
    against = {arm: _against(result, arm) for arm in result.scores}
    return {
        "prompts": result.prompts,
        "exact_match": {
            arm: {task: scores.mean(task) for task in scores.hits} | {"average": scores.average}
            for arm, scores in result.scores.items()
        },
        **{
            name: {arm: _interval(own[name]) for arm, own in against.items()}
            for name in ("normalised", "recovered", "dynamic_minus")
        },
        "storage": result.storage,
        "policy": result.policy.model_dump(),
        "router_accuracy": dynamic.routed_right,
        "null_share": dynamic.null_share,
        "static_scaling": result.static_scaling,
        "static_sweep": result.sweep,
        "costs": {arm: asdict(cost) for arm, cost in costs.items()},
    }


def _interval(found: Interval) -> dict[str, float] | None:
    if np.isnan(found.value):
        return None
    return {"value": found.value, "low": found.low, "high": found.high}
