"""How well look-alikes can be told apart at all: the router beside an adapter that learnt nothing else."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.proof.bundles import bundle
from benchmarks.proof.routes import routes_of
from benchmarks.proof.zoo import DATA, LOOKALIKES, RESULTS, RUNS, Work, write
from compress.bundle import Bundle
from router import Route
from router.jsonl import read_jsonl
from serve.evaluate import ITEM_EXAMPLE, Scores, parse_item
from serve.intervals import Interval, bootstrap

BUNDLE = "lora-int8"
STEPS, LEARNING_RATE = 1600, 5e-4


def ceiling(work: Work) -> None:
    """Both on prompts that neither has seen. The adapter answers with the name of the source."""
    path = RESULTS / "proof_ceiling.json"
    if path.is_file():
        return
    folder = RUNS / "source"
    held = _lines("router", folder / "test.jsonl")
    trained = _lines("train", folder / "train.jsonl")
    run = folder / "run"
    if not run.is_dir():
        words = ("--task", "source", "--data", folder / "train.jsonl", "--test", folder / "test.jsonl")
        settings = ("--steps", STEPS, "--learning-rate", LEARNING_RATE, "--out", run)
        command = [sys.executable, "-m", "examples.zoo.finetune", *map(str, (*words, *settings))]
        subprocess.run(command, check=True)
    card = json.loads((run / "card.json").read_text())
    router = _router(folder / "test.jsonl")
    facts = {
        "prompts": held,
        "training prompts": trained,
        "steps": card["settings"]["steps"],
        "batch": card["settings"]["batch"],
        "adapter": [100 * card["score"]["expert"][key] for key in ("value", "low", "high")],
        "router": list(vars(router).values()),
    }
    work.console.print_json(data=facts)
    write(path, facts)


def _lines(part: str, path: Path) -> int:
    """Prompts of the look-alikes, answered by the source's name; how many."""
    lines = []
    for task in LOOKALIKES:
        for line in (DATA / part / f"{task}.jsonl").read_text(encoding="utf-8").splitlines():
            lines.append(json.dumps({"prompt": json.loads(line)["prompt"], "answer": task}))
    random.Random(0).shuffle(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def _router(held: Path) -> Interval:
    """Percent of the held-out prompts that the bundle's router holds for their own task's."""
    asked = read_jsonl(held, parse_item, ITEM_EXAMPLE)
    items = {task: [item for item in asked if item.answer == task] for task in LOOKALIKES}
    routes = iter(routes_of(Bundle.open(bundle(BUNDLE)), items).routes)
    first = {task: [_likeliest(next(routes)) for _ in own] for task, own in items.items()}
    hits = {task: np.array([float(one == task) for one in own]) for task, own in first.items()}
    return bootstrap((Scores(hits),), lambda means: 100 * means.mean(0))


def _likeliest(route: Route) -> str:
    return max(route.probabilities, key=lambda task: route.probabilities[task])
