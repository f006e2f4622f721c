"""Every way to make the shared base, on the zoo: static score, dynamic score, bytes, time.

    python -m benchmarks.methods

Builds each recipe of configs/methods, asks it held-out prompts, and writes benchmarks/results/methods.json
after each; what stands there already is not measured again (--again NAME does). The router is one of n-grams,
trained anew for each bundle. Beside the recipes: the output ensemble, which averages what all fine-tunes
predict, token by token, and AdaMerging, as plain models.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.methods.adamerging import STEPS, adamerged
from benchmarks.methods.ensemble import ensemble_scores
from compress.build import build
from compress.bundle import Bundle, create, seal
from compress.inputs import open_inputs, work_key
from compress.recipe import Recipe, read_recipe
from compress.workspace import workspace
from router import RouterSettings, read_prompts
from serve.commands.build import opened, train_in
from serve.commands.calibration import calibration_of
from serve.commands.options import engine_settings
from serve.commands.progress import Bars, bars
from serve.engine import Engine
from serve.evaluate import read_data, score
from serve.plainmodels import plain_engine
from serve.request import Target
from serve.settings import EngineSettings

CONFIGS = Path("configs/methods")
DATA = Path("examples/zoo/data")
RESULT = Path("benchmarks/results/methods.json")
ENSEMBLE = "output ensemble"
ADAMERGING: dict[str, Literal["task", "layer"]] = {
    "AdaMerging by task": "task",
    "AdaMerging by layer": "layer",
}
# Prompts a task that AdaMerging looks at.
UNLABELLED = 64
# Not over the zoo's experts: these have benchmarks of their own.
APART = {"evolver", "merge_to_learn"}


def main(
    only: Annotated[list[str] | None, typer.Option(help="Recipes to measure; default: all.")] = None,
    again: Annotated[list[str] | None, typer.Option(help="Measure these anew.")] = None,
    limit: Annotated[int, typer.Option(help="Prompts a task.")] = 25,
    threads: Annotated[int | None, typer.Option(help="Of torch.")] = None,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Build, ask, compare."""
    if threads:
        torch.set_num_threads(threads)
    settings = engine_settings(device="cpu", threads=threads)
    facts: dict[str, Any] = json.loads(result.read_text()) if result.is_file() else {"rows": {}}
    names = [p.stem for p in sorted(CONFIGS.glob("*.yaml")) if p.stem not in APART]
    names = only or [*names, ENSEMBLE, *ADAMERGING]
    for name in names:
        if name in facts["rows"] and name not in (again or []):
            continue
        with bars() as shown:
            if name == ENSEMBLE:
                row = _ensemble(limit, shown)
            elif name in ADAMERGING:
                row = _adamerging(ADAMERGING[name], limit, settings, shown)
            else:
                row = _measured(read_recipe(CONFIGS / f"{name}.yaml"), limit, settings, shown)
        facts["rows"][name] = row
        facts["prompts a task"] = limit
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(json.dumps(facts, indent=2) + "\n")
    show(facts, Console())


def _measured(recipe: Recipe, limit: int, settings: EngineSettings, shown: Bars) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp())
    out = folder / "bundle"
    try:
        calibration = calibration_of(recipe, Path())
        started, cpu = time.perf_counter(), time.process_time()
        with workspace(out, work_key(recipe, None, calibration)) as work, create(out) as fresh:
            manifest, _ = build(recipe, fresh, work, calibration=calibration, progress=shown.report)
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            prompts = read_prompts(DATA / "router", recipe.tasks)
            train_in(opened(fresh), RouterSettings(features=("tfidf",)), prompts, shown)
            seal(fresh, manifest)
        bundle = Bundle.open(out)
        items = read_data(DATA / "test", bundle.tasks, limit)
        count = sum(map(len, items.values()))
        engine = Engine.open(out, settings)
        try:
            static = score(engine, items, lambda _: Target("static"), shown.stage("static", count))
            dynamic = score(engine, items, lambda _: Target("dynamic"), shown.stage("dynamic", count))
        finally:
            engine.stop()
        sizes = bundle.bytes()
        return {
            "static": 100 * static.average,
            "static by task": {task: 100 * static.mean(task) for task in bundle.tasks},
            "dynamic": 100 * dynamic.average,
            "bytes": sum(sizes.values()),
            "x base": sum(sizes.values()) / (2 * bundle.manifest.base.parameters),
            "of them shared": sizes.get("shared", 0),
            "seconds": seconds,
            "cpu seconds": cpu,
        }
    finally:
        shutil.rmtree(folder)


def _ensemble(limit: int, shown: Bars) -> dict[str, Any]:
    recipe = read_recipe(CONFIGS / "average.yaml")
    inputs = open_inputs(recipe)
    items = read_data(DATA / "test", recipe.tasks, limit)
    scores = ensemble_scores(inputs, items, shown.stage(ENSEMBLE, sum(map(len, items.values()))))
    return {
        "static": 100 * sum(scores.values()) / len(scores),
        "static by task": {task: 100 * value for task, value in scores.items()},
        "x base": float(len(recipe.tasks)),
    }


def _adamerging(
    by: Literal["task", "layer"], limit: int, settings: EngineSettings, shown: Bars
) -> dict[str, Any]:
    recipe = read_recipe(CONFIGS / "average.yaml")
    inputs = open_inputs(recipe)
    started, cpu = time.perf_counter(), time.process_time()
    prompts = read_data(DATA / "train", recipe.tasks, UNLABELLED)
    model, learnt = adamerged(inputs, prompts, by, shown.stage("steps", STEPS))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    items = read_data(DATA / "test", recipe.tasks, limit)
    count = sum(map(len, items.values()))
    with plain_engine(lambda: model, inputs.base.folder, settings) as engine:
        static = score(engine, items, lambda _: Target("static"), shown.stage("static", count))
    return {
        "static": 100 * static.average,
        "static by task": {task: 100 * static.mean(task) for task in recipe.tasks},
        "x base": 1.0,
        "seconds": seconds,
        "cpu seconds": cpu,
        **learnt,
    }


def show(facts: dict[str, Any], console: Console) -> None:
    """The figures as a table, best static score first."""
    title = f"exact match in %, {facts['prompts a task']} prompts a task"
    table = Table(title=title, title_justify="left")
    for column in ("shared base by", "static", "dynamic", "× base", "of it the merge", "build, CPU s"):
        table.add_column(column, justify="left" if column == "shared base by" else "right")
    for name, row in sorted(facts["rows"].items(), key=lambda pair: -pair[1]["static"]):
        unit = row["bytes"] / row["x base"] if "bytes" in row else 1.0
        table.add_row(
            name,
            f"{row['static']:.1f}",
            f"{row['dynamic']:.1f}" if "dynamic" in row else "",
            f"{row['x base']:.2f}",
            f"{row['of them shared'] / unit:.2f}" if row.get("of them shared") else "",
            f"{row['cpu seconds']:.0f}" if "cpu seconds" in row else "",
        )
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
