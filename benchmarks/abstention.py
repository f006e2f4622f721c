"""What a bundle's router does with prompts of its tasks, of no task, and of its tasks in other words.

    python -m benchmarks.abstention bundles/quickstart

None of these prompts trained the router or set its threshold.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from compress.bundle import Bundle
from compress.compose import factor_weights, load_composed
from compress.loading import load_tokenizer
from router import Router

DATA = Path("examples/zoo/data")
RESULT = Path("benchmarks/results/abstention.json")


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    data: Annotated[Path, typer.Option(help="A folder laid out as examples/zoo/data.")] = DATA,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Print and write the share of prompts sent to the right expert, a wrong one, and to none."""
    opened = Bundle.open(bundle)
    router = Router.load(bundle / "router")
    tokenizer = load_tokenizer(opened.base)
    model = load_composed(opened, factor_weights({}, opened.tasks, opened.scalings))
    figures = {}
    table = Table(title="share of prompts, %", title_justify="left")
    for column in ("prompts", "number", "right expert", "wrong expert", "shared base"):
        table.add_column(column, justify="left" if column == "prompts" else "right")
    for kind, prompts in read(data, opened.tasks).items():
        routes = router.route(model, [router.encode(tokenizer, text) for _, text in prompts])
        count = {"right expert": 0, "wrong expert": 0, "shared base": 0}
        for (task, _), route in zip(prompts, routes, strict=True):
            if not route.mixture:
                count["shared base"] += 1
            elif max(route.mixture, key=lambda t: route.mixture[t]) == task:
                count["right expert"] += 1
            else:
                count["wrong expert"] += 1
        figures[kind] = {"prompts": len(prompts), **count}
        shares = (f"{100 * number / len(prompts):.1f}" for number in count.values())
        table.add_row(kind, str(len(prompts)), *shares)
    Console().print(table)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=2) + "\n")


def read(data: Path, tasks: list[str]) -> dict[str, list[tuple[str | None, str]]]:
    """Kind of prompts -> (task or None, text)."""

    def lines(path: Path) -> list[dict[str, str]]:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    return {
        "of a task": [(t, line["prompt"]) for t in tasks for line in lines(data / "test" / f"{t}.jsonl")],
        "of a task, reworded": [
            (line["task"], line["prompt"]) for line in lines(data / "reworded.jsonl") if line["task"] in tasks
        ],
        "of no task": [(None, line["prompt"]) for line in lines(data / "none.jsonl")],
    }


if __name__ == "__main__":
    typer.run(main)
