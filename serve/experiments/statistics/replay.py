"""An experiment without traffic: every arm answers the same labelled prompts, one by one, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from compress.errors import InputError
from serve.engine import Engine
from serve.evaluate import Item, Scores, score
from serve.request import Target

Timed = tuple[Scores, Scores]
"""Exact match and latency in seconds, both task -> [n]."""


def targets(names: Sequence[str], tasks: Sequence[str]) -> dict[str, Target]:
    """Arm -> what answers it. names: dynamic, static, or tasks of the bundle; the first is the control.

    Raises InputError for fewer than two, one named twice, and one that is nothing of these.
    """
    if len(set(names)) != len(names) or len(names) < 2:
        raise InputError(f"arms {', '.join(names) or '(none)'}: name at least two different ones")
    known: dict[str, Target] = {"dynamic": Target("dynamic"), "static": Target("static")}
    known |= {task: Target("task", task=task) for task in tasks}
    for name in names:
        if name not in known:
            raise InputError(f"there is no arm {name!r}; there are {', '.join(known)}")
    return {name: known[name] for name in names}


def replay(
    engine: Engine,
    data: Mapping[str, Sequence[Item]],
    arms: Mapping[str, Target],
    progress: Callable[[], None],
) -> dict[str, Timed]:
    """Every prompt answered by every arm, greedily, one request at a time; which arm begins changes from
    prompt to prompt, so that no arm finds the prompt's pages warmer or the machine busier than another.

    An unmeasured answer of each arm comes first. progress: hears of every answer. Raises InputError where an
    arm cannot be served.
    """
    task, items = next((task, items) for task, items in data.items() if items)
    for target in arms.values():
        score(engine, {task: items[:1]}, lambda _, target=target: target)  # type: ignore[misc]
    names = list(arms)
    found: dict[str, dict[str, list[tuple[float, float]]]] = {
        name: {task: [] for task in data} for name in names
    }
    turn = 0
    for task, items in data.items():
        for item in items:
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                started = time.perf_counter()
                scores = score(engine, {task: [item]}, lambda _, target=arms[name]: target)  # type: ignore[misc]
                seconds = time.perf_counter() - started
                found[name][task].append((float(scores.hits[task][0]), seconds))
                progress()
            turn += 1
    return {
        name: (
            Scores({task: np.array([hit for hit, _ in pairs]) for task, pairs in by_task.items()}),
            Scores({task: np.array([seconds for _, seconds in pairs]) for task, pairs in by_task.items()}),
        )
        for name, by_task in found.items()
    }
