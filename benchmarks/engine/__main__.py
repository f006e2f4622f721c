"""Tokens a second of twinserve's engine and of other ways to serve many fine-tunes, side by side.

    python -m benchmarks.engine --vllm-python ENV/bin/python --llamacpp-python ENV/bin/python

All contenders are loaded first and then asked in turns, so that a noisy machine hits all of them. All
are greedy, in float32, on the same number of threads, and make exactly the tokens asked for.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from benchmarks.engine.contenders import CONTENDERS, Setting, load
from benchmarks.engine.models import NAMES, bundle
from benchmarks.engine.models import Name as Model
from benchmarks.engine.protocol import Workload
from benchmarks.engine.rounds import Figures, rounds
from benchmarks.engine.workloads import KINDS, Arrivals, Kind, Lengths, workload
from compress.parameters import read_config


def main(
    model: Annotated[Model, typer.Option(help="Whose bundle.")] = NAMES[0],
    experts: Annotated[int, typer.Option(min=1, help="Experts of the wide model.")] = 8,
    kind: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(KINDS)}; default: all.")] = None,
    lengths: Annotated[Lengths, typer.Option(help="Of prompts and answers.")] = "equal",
    arrivals: Annotated[Arrivals, typer.Option(help="When requests come.")] = "together",
    gap: Annotated[float, typer.Option(help="Mean seconds between staggered arrivals.")] = 0.25,
    requests: Annotated[int, typer.Option(min=1, help="Requests of a workload.")] = 16,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of an equal prompt.")] = 64,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an equal answer.")] = 32,
    slots: Annotated[int, typer.Option(min=1, help="Requests that run together at most.")] = 16,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each contender.")] = 2,
    count: Annotated[int, typer.Option("--rounds", min=1, help="Turns of each contender.")] = 3,
    contender: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(CONTENDERS)}.")] = None,
    vllm_python: Annotated[Path | None, typer.Option(help="Python with vLLM.")] = None,
    llamacpp_python: Annotated[Path | None, typer.Option(help="Python with llama-cpp-python.")] = None,
    folder: Annotated[Path, typer.Option(help="Bundles, conversions and logs.")] = Path("runs/engine"),
    result: Annotated[Path | None, typer.Option(help="Where the figures go, as JSON.")] = None,
) -> None:
    """Print tokens a second of every contender on every kind of mixtures."""
    names = known(contender, list(CONTENDERS))
    kinds = known(kind, list(KINDS))
    disable_progress_bar()
    torch.set_num_threads(threads)
    opened = bundle(model, folder, experts)
    vocabulary = read_config(str(opened.base)).vocab_size
    workloads: dict[str, Workload] = {
        one: workload(
            opened.tasks,
            vocabulary,
            kind=cast(Kind, one),
            lengths=lengths,
            arrivals=arrivals,
            requests=requests,
            prompt=prompt,
            new_tokens=new_tokens,
            gap=gap,
        )
        for one in kinds
    }
    longest = max(len(r.prompt) + r.new_tokens for one in workloads.values() for r in one)
    setting = Setting(opened, folder, slots, threads, longest, vllm_python, llamacpp_python)
    contenders, failures = load(setting, names)
    try:
        figures = {name: rounds(contenders, one, count, name) for name, one in workloads.items()}
    finally:
        for one in contenders:
            one.close()
    table(names, figures, failures)
    if result is not None:
        facts: dict[str, Any] = {
            "model": opened.path.name,
            "lengths": lengths,
            "arrivals": arrivals,
            "gap": gap if arrivals == "staggered" else None,
            "requests": requests,
            "prompt": prompt if lengths == "equal" else None,
            "new_tokens": new_tokens if lengths == "equal" else None,
            "slots": slots,
            "threads": threads,
            "rounds": count,
            "machine": platform.machine(),
            "versions": {one.name: getattr(one, "version", None) for one in contenders},
            "peak_memory": {one.name: getattr(one, "peak", None) for one in contenders},
            "not_run": failures,
            "figures": {
                name: {who: one.facts() for who, one in row.items()} for name, row in figures.items()
            },
        }
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(json.dumps(facts, indent=2) + "\n")


def known(chosen: list[str] | None, names: list[str]) -> list[str]:
    """``chosen``, or all. Raises BadParameter for a name that is none."""
    if unknown := [name for name in chosen or [] if name not in names]:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(names)}")
    return chosen or names


def table(names: list[str], figures: dict[str, dict[str, Figures]], failures: dict[str, str]) -> None:
    """Median tokens a second, a row a contender, a column a kind."""
    screen = Console(highlight=False, soft_wrap=True)
    width = max(map(len, names)) + 2
    screen.print(f"{'tokens/s':<{width}}" + "".join(f"{kind:>9}" for kind in figures))
    for name in names:
        if name in failures:
            screen.print(f"{name:<{width}}  {failures[name]}", markup=False)
            continue
        cells = "".join(f"{row[name].cell():>9}" for row in figures.values())
        screen.print(f"{name:<{width}}{cells}")
    for kind, row in figures.items():
        for name, one in row.items():
            if one.failure:
                screen.print(f"{name} on {kind}: {one.failure}", markup=False)


if __name__ == "__main__":
    typer.run(main)
