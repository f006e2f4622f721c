"""The loss between two models of different initialisation, before and after alignment.

    python -m benchmarks.alignment

Trains two small BERTs and two small Llamas on the zoo's text, from different seeds, some minutes a model on
one core; they are kept in the cache. Writes benchmarks/results/alignment.json and docs/images/alignment.svg.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.alignment import training
from benchmarks.alignment.curves import curves
from benchmarks.alignment.plot import draw
from benchmarks.alignment.text import VOCABULARY, read_text
from compress.sources import cache_folder
from serve.commands.progress import bars

DATA = Path("examples/zoo/data")
RESULT, IMAGE = Path("benchmarks/results/alignment.json"), Path("docs/images/alignment.svg")


def main(
    data: Annotated[Path, typer.Option(help="A folder laid out as examples/zoo/data.")] = DATA,
    cache: Annotated[Path | None, typer.Option(help="Where trained models are kept.")] = None,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
    image: Annotated[Path, typer.Option(help="Where the plot goes.")] = IMAGE,
) -> None:
    """Print and write losses along the line between two models, and barriers."""
    torch.set_num_threads(1)
    kept = cache or cache_folder() / "benchmarks-alignment"
    text = read_text(data)
    results: dict[str, Any] = {}
    for family in training.FAMILIES:
        with bars() as shown:
            first, second = (
                training.trained(family, seed, text, kept, partial(shown.report, f"train {family} {seed}"))
                for seed in (0, 1)
            )
            results[family] = curves(first, second, text, shown.report)
    facts = {"models": _models(), **results}
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(facts, indent=2) + "\n")
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_text(draw(results))
    show(results, Console())


def _models() -> dict[str, Any]:
    return {
        "hidden": training.HIDDEN,
        "layers": training.LAYERS,
        "heads": training.HEADS,
        "vocabulary": VOCABULARY,
        "steps": training.STEPS,
        "rows a step": training.ROWS,
        "seeds": [0, 1],
    }


def show(results: dict[str, Any], console: Console) -> None:
    """Print barriers, a column a family."""
    table = Table(title="barrier on held-out text, nats a token", title_justify="left")
    table.add_column("aligned")
    for family in results:
        table.add_column(family, justify="right")
    for name in next(iter(results.values()))["barrier"]:
        cells = (
            f"{facts['barrier'][name]:.3f}" + (" chosen" if name == facts["chosen"] else "")
            for facts in results.values()
        )
        table.add_row(name, *cells)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
