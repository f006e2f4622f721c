"""A skill added to a general model by merging, against training on: what is gained, lost and spent.

    sh benchmarks/merge_to_learn/train.sh runs
    python -m benchmarks.merge_to_learn runs

The general model knows three tasks of the zoo; the skill is to refuse unsafe requests and to go on answering
harmless ones that look alike. Chosen on development prompts, shown on test prompts. Writes
benchmarks/results/merge_to_learn.json and docs/images/merge_to_learn.svg.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.merge_to_learn.plot import draw
from compress.checkpoints import Checkpoint
from compress.loading import load_model
from compress.merge import Merger, MergeSource
from compress.merging import METHODS
from compress.sources import resolve
from examples.zoo.base import BASE
from examples.zoo.refusals import SAFE_COMPLIED, UNSAFE_REFUSED, refusal_scores
from serve.commands.options import engine_settings
from serve.commands.progress import bars
from serve.engine import Engine
from serve.evaluate import Item, read_data, score
from serve.plainmodels import plain_engine
from serve.prompts import file_ids
from serve.request import GenerationRequest, SamplingParams, Target

DATA = Path("examples/zoo/data")
RESULT = Path("benchmarks/results/merge_to_learn.json")
PLOT = Path("docs/images/merge_to_learn.svg")
TASKS = ("movies", "reversal", "recall")
OMEGAS = (0.2, 0.4, 0.6, 0.8, 1.0)
ANSWER_TOKENS = 32


def main(
    runs: Annotated[Path, typer.Argument(metavar="RUNS", help="Where train.sh has put the fine-tunes.")],
    limit: Annotated[int, typer.Option(help="Prompts of a general task.")] = 40,
    threads: Annotated[int | None, typer.Option(help="Of torch.")] = None,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
    plot: Annotated[Path, typer.Option(help="Where the plot goes.")] = PLOT,
) -> None:
    """Measure the trade-off."""
    if threads:
        torch.set_num_threads(threads)
    base = Checkpoint.open(resolve(BASE))
    made = {
        name: _open(runs / f"{name}-full", base) for name in ("general", "refusals", "continued", "mixture")
    }
    steps = {name: _steps(runs / f"{name}-full") for name in made}
    source = MergeSource(base, {"general": made["general"], "refusals": made["refusals"]})
    heuristic = round(steps["refusals"] / steps["general"], 4)
    models: dict[str, tuple[Callable[[str], Tensor], int]] = {
        "pretrained": (base.weight, 0),
        "general": (made["general"].weight, 0),
        "skill alone": (made["refusals"].weight, steps["refusals"]),
        "continued fine-tuning": (made["continued"].weight, steps["continued"]),
        "retraining on the mixture": (made["mixture"].weight, steps["mixture"]),
    }
    for omega in sorted({*OMEGAS, heuristic}):
        models[f"merge, ω = {omega:g}"] = (_merged(source, omega), steps["refusals"])
    rows: dict[str, dict[str, Any]] = {}
    settings = engine_settings(device="cpu", threads=threads)
    with bars() as shown:
        for name, (weight, cost) in models.items():
            model = load_model(base.folder, torch.float32)
            with torch.no_grad():
                for key, parameter in model.named_parameters():
                    parameter.copy_(weight(key))
            with plain_engine(lambda model=model: model, base.folder, settings) as engine:  # type: ignore[misc]
                rows[name] = {"steps": cost}
                for split in ("dev", "test"):
                    rows[name][split] = _measured(engine, split, limit, shown.stage(f"{name}, {split}", 1))
    swept = max(
        (name for name in rows if name.startswith("merge")), key=lambda name: rows[name]["dev"]["balance"]
    )
    facts = {
        "steps": steps,
        "omega by steps": heuristic,
        "omega by development prompts": swept,
        "prompts": {split: rows["general"][split]["prompts"] for split in ("dev", "test")},
        "rows": rows,
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    plot.parent.mkdir(parents=True, exist_ok=True)
    plot.write_text(draw(facts))
    show(facts, Console())


def _open(folder: Path, base: Checkpoint) -> Checkpoint:
    return Checkpoint.open(resolve(str(folder)), base)


def _steps(folder: Path) -> int:
    """Optimiser steps of a fine-tune, by its card."""
    steps: int = json.loads((folder / "card.json").read_text())["settings"]["steps"]
    return steps


def _merged(source: MergeSource, omega: float) -> Callable[[str], Tensor]:
    method = METHODS["merge_to_learn"]
    return Merger(method, method.parameters(general="general", omega=omega), source).merged


def _measured(engine: Engine, split: str, limit: int, done: Callable[[], None]) -> dict[str, Any]:
    """General ability: exact match over the three tasks. Skill: unsafe refused, safe answered. Percent."""
    items = read_data(DATA / split, TASKS, limit)
    general = score(engine, items, lambda _: Target("static"))
    lines = [json.loads(line) for line in (DATA / "refusals" / f"{split}.jsonl").read_text().splitlines()]
    asked = [Item([{"role": "user", "content": line["prompt"]}], line["answer"]) for line in lines]
    requests = [
        GenerationRequest(
            file_ids(engine.tokenizer, item.messages), SamplingParams(ANSWER_TOKENS), Target("static")
        )
        for item in asked
    ]
    texts = [answer.text for answer in engine.generate(requests)]
    done()
    skill = refusal_scores(texts, [line["kind"] for line in lines])
    found = {
        "general": 100 * general.average,
        "refused": 100 * skill[UNSAFE_REFUSED],
        "complied": 100 * skill[SAFE_COMPLIED],
        "prompts": sum(map(len, items.values())) + len(lines),
    }
    # One number to choose by: the general tasks and the skill's two halves weigh a third each.
    return found | {"balance": (found["general"] + found["refused"] + found["complied"]) / 3}


def show(facts: dict[str, Any], console: Console) -> None:
    """The test figures as a table."""
    table = Table(title="test prompts, %", title_justify="left")
    for column in ("", "general tasks", "unsafe refused", "safe answered", "mean", "steps for the skill"):
        table.add_column(column, justify="left" if not column else "right")
    for name, row in facts["rows"].items():
        test = row["test"]
        marks = ["by steps"] if name == f"merge, ω = {facts['omega by steps']:g}" else []
        marks += ["by dev"] if name == facts["omega by development prompts"] else []
        shown = f"{name} ({', '.join(marks)})" if marks else name
        values = (f"{test[key]:.1f}" for key in ("general", "refused", "complied", "balance"))
        table.add_row(shown, *values, str(row["steps"]))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
