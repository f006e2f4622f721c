"""The bundles that are measured: built by the command that users type, each with a router of its own."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.proof.zoo import DATA, RESULTS, RUNS, ZOOS

TWELVE = "twelve"
# Bundle -> (zoo, recipe). Twelve: without a router, for every number of experts has its own.
BUNDLES = {
    "lora-exact": ("lora", "configs/zoo.yaml"),
    "lora-int8": ("lora", "configs/zoo_int8.yaml"),
    "lora-small": ("lora", "configs/zoo_small.yaml"),
    "full-1.50": ("full", "configs/zoo_full_150.yaml"),
    "full-1.25": ("full", "configs/zoo_full_125.yaml"),
    TWELVE: ("twelve", "configs/zoo_twelve.yaml"),
}
HEADLINE = tuple(name for name in BUNDLES if name != TWELVE)
# Of every task's training prompts, for the router.
PROMPTS = 1000
DEPTH = RESULTS / "routing.json"


def bundle(name: str) -> Path:
    """The bundle of that name, built where it is not there yet."""
    zoo, recipe = BUNDLES[name]
    path = RUNS / "bundles" / name
    if not path.is_dir():
        _run("compress", recipe, "-o", str(path))
    if name != TWELVE and not (path / "router").is_dir():
        looked = looking()
        options = [word for option, value in looked.items() for word in (f"--{option}", str(value))]
        given = ["--features", "hidden", "--classifier", "logistic", *options]
        _run("train-router", str(path), "--prompts", str(router_prompts(zoo)), *given)
    return path


def router_prompts(zoo: str) -> Path:
    """A file of the first ``PROMPTS`` training prompts of the zoo's tasks."""
    path = RUNS / f"router-{zoo}.jsonl"
    lines = []
    for task in ZOOS[zoo].recipe.tasks:
        own = [json.loads(line) for line in (DATA / "train" / f"{task}.jsonl").read_text().splitlines()]
        lines += [{"task": task, "prompt": line["prompt"]} for line in own[:PROMPTS]]
    random.Random(0).shuffle(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def looking() -> dict[str, Any]:
    """Where a router looks: layer and pooling with the lowest cross-validated log-loss on training prompts,
    as ``python -m benchmarks.routing`` measured it."""
    depth: dict[str, Any] = json.loads(DEPTH.read_text())["depth"]
    layer, pooling = min(depth, key=lambda name: float(depth[name]["log_loss"])).split(", ")
    return {"layer": int(layer), "pooling": pooling}


def _run(*words: str) -> None:
    subprocess.run([str(Path(sys.executable).parent / "twinserve"), *words], check=True)
