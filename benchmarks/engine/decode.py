"""What mixtures cost in a decode step: beside the static model on the same engine, and beside what memory
and arithmetic allow.

    python -m benchmarks.engine.decode --model smollm2

Steps of all kinds of traffic run in turns, so that a noisy machine hits all of them.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track

from benchmarks.engine.limits import Limits
from benchmarks.engine.models import NAMES, Name, bundle
from benchmarks.engine.workloads import MIXTURES, Kind
from compress.bundle import Bundle
from compress.compose import factor_weights
from serve.costs import calibrate
from serve.kernels import Weights
from serve.kvcache import Segment, SlotCache
from serve.mixture import MixtureModel
from serve.planner import Planner
from serve.runner import Runner, Work

KINDS: tuple[Kind, ...] = ("static", "same", "top1", "top2", "soft", "half")


def main(
    model: Annotated[Name, typer.Option(help="Whose bundle.")] = NAMES[0],
    experts: Annotated[list[int] | None, typer.Option(help="Experts of the wide model.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Rows of a step.")] = None,
    prompt: Annotated[list[int] | None, typer.Option(help="Positions before it.")] = None,
    distinct: Annotated[int | None, typer.Option(help="Experts that top-1 rows use at most.")] = None,
    steps: Annotated[int, typer.Option(min=2, help="Turns of each kind.")] = 15,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    folder: Annotated[Path, typer.Option(help="Bundles.")] = Path("runs/engine"),
    result: Annotated[Path | None, typer.Option(help="Where the figures go, as JSON.")] = None,
) -> None:
    """Print, for each kind, its speed as a share of the static model's, and of what is possible."""
    torch.set_num_threads(threads)
    found: list[dict[str, Any]] = []
    screen = Console(highlight=False)
    for count in experts or [8]:
        opened = bundle(model, folder, count)
        mixture = MixtureModel.load(opened, dtype=torch.float32)
        costs = calibrate(mixture)
        limits = Limits(mixture)
        screen.print(f"{opened.path.name}: {limits.sentence()}")
        for rows in batch or [1, 4, 16, 32]:
            for length in prompt or [64, 512]:
                row = measure(opened, mixture, costs, rows, length, steps, distinct)
                static = row["seconds"]["static"]
                possible = {
                    kind: limits.ratio(static, rows, mixtures)
                    for kind, mixtures in row.pop("mixtures").items()
                }
                share = {kind: static / seconds for kind, seconds in row["seconds"].items()}
                found.append({"experts": count, **row, "share": share, "possible": possible})
                cells = "  ".join(
                    f"{kind} {share[kind]:.2f} of {possible[kind]:.2f}" for kind in share if kind != "static"
                )
                screen.print(f"batch {rows:>2}, prompt {length:>3}: static {static * 1e3:6.1f} ms; {cells}")
    if result is not None:
        facts = {"model": model, "threads": threads, "steps": steps, "distinct": distinct}
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(json.dumps({**facts, "limits": limits.facts(), "rows": found}, indent=2) + "\n")


def measure(
    opened: Bundle,
    mixture: MixtureModel,
    costs: Any,
    rows: int,
    length: int,
    steps: int,
    distinct: int | None,
) -> dict[str, Any]:
    """Median seconds of a decode step of each kind, as the planner computes it once copies have settled."""
    chooser = random.Random(rows)
    tasks = opened.tasks[:distinct]

    def g(mixtures: Sequence[dict[str, float]]) -> list[Weights]:
        return [tuple(factor_weights(one, opened.carried, opened.scalings)) for one in mixtures]

    weights = {kind: g([MIXTURES[kind](tasks, i, chooser) for i in range(rows)]) for kind in KINDS}
    cache = SlotCache(mixture.model.config)
    cache.reserve(rows, length + 1, rows * 2 * (length + 64))
    turns: dict[str, Callable[[], Any]] = {}
    for kind, mixtures in weights.items():
        planner = Planner(mixture, costs, 2 * mixture.parameter_bytes)
        planner.pin(weights["static"][0])
        runner = Runner(mixture, cache, planner)
        work = [Work(Segment(i, length, [100 + i]), one, True) for i, one in enumerate(mixtures)]
        turns[kind] = partial(runner.run, work)
    seconds: dict[str, list[float]] = {kind: [] for kind in turns}
    with torch.inference_mode():
        for _ in range(20):  # homogeneous rows pay for their copy before it is timed
            turns["same"]()
        for number in track(range(steps + 2), description=f"batch {rows}", transient=True):
            for name, turn in turns.items():
                started = time.perf_counter()
                turn()
                if number > 1:
                    seconds[name].append(time.perf_counter() - started)
    return {
        "batch": rows,
        "prompt": length,
        "seconds": {kind: statistics.median(values) for kind, values in seconds.items()},
        "fastest": {kind: min(values) for kind, values in seconds.items()},
        "mixtures": weights,
    }


if __name__ == "__main__":
    typer.run(main)
