"""How right, calibrated, careful and cheap routing is, on a bundle of the zoo.

    python -m benchmarks.routing bundles/zoo

Prints tables and writes benchmarks/results/routing.json. Nothing measured here trained or chose anything.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.routing.cost import cost
from benchmarks.routing.depth import depths
from benchmarks.routing.quality import Bench, dataless, quality, settled, sizes
from benchmarks.routing.scale import ask_many, train_many
from benchmarks.routing.shares import shown
from compress.bundle import Bundle
from compress.compose import factor_weights, load_composed
from compress.loading import load_tokenizer
from router import RouterSettings
from router.features import FeatureKind

DATA = Path("examples/zoo/data")
RESULT = Path("benchmarks/results/routing.json")
SIZES = (10, 25, 50, 100, 200, 500, 1000)


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    data: Annotated[Path, typer.Option(help="A folder laid out as examples/zoo/data.")] = DATA,
    encoder: Annotated[str | None, typer.Option(help="A sentence encoder to compare too.")] = None,
    threads: Annotated[int | None, typer.Option(help="Of torch, for everything.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="quality, depth, cost or scale; default: all.")
    ] = None,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Measure the routers that this bundle could have."""
    if threads:
        torch.set_num_threads(threads)
    console = Console()
    parts = set(only or ("quality", "depth", "cost", "scale"))
    facts: dict[str, Any] = json.loads(result.read_text()) if result.is_file() else {}
    if parts - {"scale"}:
        bench = _bench(bundle, data, encoder, Console(stderr=True))
    if "quality" in parts:
        facts["quality"] = {kind: quality(bench, kind) for kind in bench.settings.features}
        facts["dataless"] = dataless(bench)
        facts["sizes"] = {kind: sizes(bench, kind, SIZES) for kind in ("tfidf", "hidden")}
    if "depth" in parts:
        facts["depth"] = depths(bench)
    if "cost" in parts:
        facts["cost" if threads is None else f"cost, threads {threads}"] = cost(bench, threads)
    if "scale" in parts:
        facts["scale"] = {"training": train_many(), "asking": ask_many()}
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(facts, indent=2) + "\n")
    show(facts, console)


def _bench(bundle: Path, data: Path, encoder: str | None, log: Console) -> Bench:
    opened = Bundle.open(bundle)
    model = load_composed(opened, factor_weights({}, opened.carried, opened.scalings))
    kinds: tuple[FeatureKind, ...] = ("embedding", "tfidf", "hidden")
    if encoder:
        kinds = (*kinds, "sentence")
    settings = settled(RouterSettings(features=kinds, encoder=encoder), model)
    tokenizer = load_tokenizer(opened.base)
    return Bench(opened, model, tokenizer, data, settings, log.print)


def show(facts: dict[str, Any], console: Console) -> None:
    """Print what there is of the figures."""
    if routers := facts.get("quality"):
        columns = {**routers, "dataless": facts["dataless"]}
        table = _table(console, "held-out prompts, % [95 % interval]", columns)
        for row in ("accuracy", "look-alikes", "templates", "false_rejection"):
            table.add_row(row, *(shown(one[row]) if row in one else "" for one in columns.values()))
        table.add_row("calibration error", *(f"{100 * one['ece']:.1f}" for one in columns.values()))
        console.print(table)
        table = _table(console, "sent to the shared base, %", routers)
        for name in next(iter(routers.values()))["kinds"]:
            table.add_row(name, *(shown(one["kinds"][name]["shared base"]) for one in routers.values()))
        for name in next(iter(routers.values()))["left out"]:
            table.add_row(f"left out: {name}", *(shown(one["left out"][name]) for one in routers.values()))
        console.print(table)
    if novelty := routers and routers.get("hidden", {}).get("novelty"):
        table = _table(console, "hidden state: sent away by score, %", novelty)
        for name in next(iter(novelty.values())):
            table.add_row(name, *(f"{100 * one[name]:.1f}" for one in novelty.values()))
        console.print(table)
    for part in facts:
        if part not in ("quality", "dataless"):
            console.print(part, facts[part])


def _table(console: Console, title: str, columns: Any) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in columns:
        table.add_column(str(name), justify="right")
    return table


if __name__ == "__main__":
    typer.run(main)
