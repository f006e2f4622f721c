"""What a shadow costs the answers that clients see: latency with and without one, in turns, at half load.

    python -m benchmarks.experiments.shadow BUNDLE

Serves the bundle by ``twinserve serve``, finds how many requests a second it answers at most, and lets half
as many come at random moments (Poisson), in blocks of two: in one of them each request has a shadow, and both
have the same requests at the same moments. Answers are of the merged model, shadows are routed. After a block
those that are left may end; they are counted apart. Writes benchmarks/results/shadow.json.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
import yaml
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.soak.__main__ import served
from compress.bundle import read_manifest
from serve.evaluate import Item, read_data

DATA = Path("examples/zoo/data/test")
RESULT = Path("benchmarks/results/shadow.json")
NAME, HEADER = "twin", "x-block"
BLOCKS = ("without", "with")
TOKENS = 32
# Seconds after a block, in which an engine that has nothing else to do ends all its shadows.
REST = 15
# To find out how many requests a second are answered at most: so many, so many of them at once.
FLOOD, TOGETHER = 64, 16


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    rounds: Annotated[int, typer.Option(help="Blocks of each kind.")] = 2,
    seconds: Annotated[float, typer.Option(help="Of each block.")] = 150.0,
    load: Annotated[float, typer.Option(help="Share of the most requests a second.")] = 0.5,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Measure latencies."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "serve.yaml"
        declared = Path(folder) / "experiments.yaml"
        declared.write_text(yaml.safe_dump({"experiments": [_experiment(block) for block in BLOCKS]}))
        store = {"state": str(Path(folder) / "state")}
        file.write_text(yaml.safe_dump({"experiments": {"file": str(declared), "store": store}}))
        with served(bundle.resolve(), "--config", str(file), "--name", NAME) as (url, _):
            facts = asyncio.run(_measured(url, bundle, rounds, seconds, load))
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(facts, indent=2) + "\n")
    _show(facts)


def _experiment(block: str) -> dict[str, Any]:
    # Without a dynamic arm the router is not asked for tasks either: all of it is compared with nothing.
    other = {"model": "dynamic" if block == "with" else "static"}
    arms = [{"name": "static", "model": "static", "share": 1}, {"name": "other", "share": 0, **other}]
    shadow = {"shadow": {"arm": "other", "most": 8}} if block == "with" else {}
    metrics = [{"name": "latency", "direction": "lower"}]
    # A layer each, so that both take all of their requests; of other layers, so of other blocks.
    common = {"unit": "request", "layer": block, "eligible": {"headers": {HEADER: block}}}
    return {"name": block, "arms": arms, "metrics": metrics, **common, **shadow}


async def _measured(url: str, bundle: Path, rounds: int, seconds: float, load: float) -> dict[str, Any]:
    items = [item for own in read_data(DATA, read_manifest(bundle).tasks, 50).values() for item in own]
    random.Random(0).shuffle(items)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
        most = await _flood(http, itertools.cycle(items))
        latencies: dict[str, list[list[float]]] = defaultdict(list)
        meanwhile = 0
        turns = [(turn, block) for turn in range(rounds) for block in BLOCKS[:: 1 if turn % 2 else -1]]
        for turn, block in track(turns, description="blocks"):
            found, finished = await _block(http, items, block, turn, seconds, load * most)
            latencies[block].append(found)
            meanwhile += finished
        shadows = await _shadows(http)
    return {
        "requests a second at most": most,
        "load": load,
        "seconds a block": seconds,
        "latency, s": {block: _figures(latencies[block]) for block in BLOCKS},
        "with over without": {
            name: _ratio(np.concatenate(latencies["with"]), np.concatenate(latencies["without"]), quantile)
            for name, quantile in (("p50", 0.5), ("p95", 0.95))
        },
        "shadows": shadows,
        "shadows finished under load": meanwhile,
        "blocks": {block: latencies[block] for block in BLOCKS},
    }


async def _flood(http: httpx.AsyncClient, items: Any) -> float:
    """Requests answered a second when more wait than are answered together; the first ones warm up."""
    gate = asyncio.Semaphore(TOGETHER)

    async def one() -> None:
        async with gate:
            await _ask(http, next(items), "none")

    await asyncio.gather(*(one() for _ in range(FLOOD // 2)))
    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(FLOOD)))
    return FLOOD / (time.perf_counter() - began)


async def _block(
    http: httpx.AsyncClient, items: list[Item], block: str, turn: int, seconds: float, rate: float
) -> tuple[list[float], int]:
    """Latencies of the requests that came within ``seconds``, in which so many shadows were finished; then a
    pause, until everything rests. turn: decides what comes when."""
    asked, before = [], await _shadows(http)
    chosen, began, moment = random.Random(turn), time.perf_counter(), 0.0
    while (moment := moment + chosen.expovariate(rate)) < seconds:
        await asyncio.sleep(began + moment - time.perf_counter())
        asked.append(asyncio.create_task(_ask(http, chosen.choice(items), block)))
    finished = (await _shadows(http)).get("finished", 0) - before.get("finished", 0)
    found = list(await asyncio.gather(*asked))
    await asyncio.sleep(REST)
    return found, finished


async def _shadows(http: httpx.AsyncClient) -> dict[str, int]:
    """How many shadows have ended so far, by outcome."""
    start = "twinserve_experiment_shadows_total{"
    lines = [line for line in (await http.get("/metrics")).text.splitlines() if line.startswith(start)]
    told = (line.split('outcome="')[1].split('"} ') for line in lines)
    return {outcome: int(float(count)) for outcome, count in told}


async def _ask(http: httpx.AsyncClient, item: Item, block: str) -> float:
    body = {
        "model": NAME,
        "messages": item.messages,
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
    }
    began = time.perf_counter()
    response = await http.post("/v1/chat/completions", json=body, headers={HEADER: block})
    response.raise_for_status()
    return time.perf_counter() - began


def _figures(blocks: list[list[float]]) -> dict[str, float]:
    values = np.concatenate(blocks)
    quantiles = {name: float(np.quantile(values, q)) for name, q in (("p50", 0.5), ("p95", 0.95))}
    return {"requests": len(values), "mean": float(values.mean()), **quantiles}


def _ratio(with_: Any, without: Any, quantile: float) -> list[float]:
    """The ratio of two quantiles, with a 95 % bootstrap interval over requests, each with its twin."""
    drawn = np.random.default_rng(0).integers(0, len(with_), (5000, len(with_)))
    ratios = np.quantile(with_[drawn], quantile, axis=1) / np.quantile(without[drawn], quantile, axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return [float(np.quantile(with_, quantile) / np.quantile(without, quantile)), float(low), float(high)]


def _show(facts: dict[str, Any]) -> None:
    table = Table("", "requests", "mean, s", "p50, s", "p95, s")
    for block, found in facts["latency, s"].items():
        cells = (f"{found[name]:.3f}" for name in ("mean", "p50", "p95"))
        table.add_row(f"{block} a shadow", str(found["requests"]), *cells)
    console = Console()
    console.print(table)
    for name, (ratio, low, high) in facts["with over without"].items():
        console.print(f"{name}: {ratio:.3f} [{low:.3f}, {high:.3f}]", highlight=False)
    meanwhile = facts["shadows finished under load"]
    console.print(f"shadows: {facts['shadows']}, {meanwhile} of them finished under load", highlight=False)


if __name__ == "__main__":
    typer.run(main)
