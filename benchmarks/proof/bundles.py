"""The bundles that are measured: built by the command that users type, each with a router of its own."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

from benchmarks.proof.zoo import DATA, LOOKALIKES, RUNS, ZOOS

TWELVE = "twelve"
# Bundle -> (zoo, recipe). Twelve: without a router, for every number of experts has its own.
BUNDLES = {
    "lora-exact": ("lora", "configs/zoo.yaml"),
    "lora-int8": ("lora", "configs/zoo_int8.yaml"),
    "lora-small": ("lora", "configs/zoo_small.yaml"),
    "full-1.50": ("full", "configs/zoo_full_150.yaml"),
    "full-1.25": ("full", "configs/zoo_full_125.yaml"),
    "full-1.10": ("full", "configs/zoo_full_110.yaml"),
    TWELVE: ("twelve", "configs/zoo_twelve.yaml"),
}
HEADLINE = tuple(name for name in BUNDLES if name != TWELVE)
# Training prompts for the router. Words of its own give a task away with 200; for those that share their
# words, every prompt counts.
PROMPTS, PROMPTS_OF_LOOKALIKES = 500, 2000
# What cross-validation on training prompts chooses (docs/routing.md: how deep); comparing takes long.
LOOKING = ("--features", "hidden", "--classifier", "logistic", "--layer", "15", "--pooling", "both")
# At this depth every foreign text that was tried is turned away at this rate, too (same section).
ROUTER = (*LOOKING, "--false-rejection", "0.005")


def bundle(name: str) -> Path:
    """The bundle of that name, built where it is not there yet."""
    zoo, recipe = BUNDLES[name]
    path = RUNS / "bundles" / name
    if not path.is_dir():
        _run("compress", recipe, "-o", str(path))
    if name != TWELVE and not (path / "router").is_dir():
        _run("train-router", str(path), "--prompts", str(router_prompts(zoo)), *ROUTER)
    return path


def router_prompts(zoo: str) -> Path:
    """A file of the first training prompts of the zoo's tasks."""
    path = RUNS / f"router-{zoo}.jsonl"
    lines = []
    for task in ZOOS[zoo].recipe.tasks:
        own = [json.loads(line) for line in (DATA / "train" / f"{task}.jsonl").read_text().splitlines()]
        count = PROMPTS_OF_LOOKALIKES if task in LOOKALIKES else PROMPTS
        lines += [{"task": task, "prompt": line["prompt"]} for line in own[:count]]
    random.Random(0).shuffle(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def _run(*words: str) -> None:
    subprocess.run([str(Path(sys.executable).parent / "twinserve"), *words], check=True)
