"""Where soft beats hard: what an answer is worth by the right expert's weight, the rest going to a wrong one.

The wrong expert of a prompt is the one that the router holds for the likeliest after the right one. A router
that errs in a share e of prompts and gives its first choice the weight q answers by hard routing with weight
1 or 0, by soft routing with q or 1 - q; the measured curve says what either scores, for any e and q.
"""

from __future__ import annotations

from typing import Any

from benchmarks.proof.bundles import bundle
from benchmarks.proof.routes import routes_of, tasks_of
from benchmarks.proof.zoo import LOOKALIKES, RESULTS, ZOOS, Work, write
from compress.bundle import Bundle
from serve.answers import Book
from serve.engine import Engine
from serve.evaluate import score_each
from serve.request import Target

# Sixty-fourths, the grid that mixtures are rounded to.
WEIGHTS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
ERRORS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
PROMPTS = 50


def misroutes(work: Work) -> None:
    """Exact match by weight, and of hard and soft routing by error and confidence."""
    path = RESULTS / "proof_misroutes.json"
    if path.is_file():
        return
    tasks = ZOOS["lora"].recipe.tasks
    items = {task: own[:PROMPTS] for task, own in work.test(tasks).items()}
    made = Bundle.open(bundle("lora-exact"))
    routes = routes_of(made, items).routes
    wrong = []
    for task, route in zip(tasks_of(items), routes, strict=True):
        others = {other: p for other, p in route.probabilities.items() if other != task}
        wrong.append(max(others, key=lambda other: others[other]))
    curve: dict[float, dict[str, float]] = {}
    engine = Engine.open(made.path, work.settings)
    try:
        book = Book.of_bundle(work.answers, made, "float32")
        for weight in WEIGHTS:
            targets = [
                Target("mixture", mixture={k: w for k, w in ((task, weight), (other, 1 - weight)) if w})
                for task, other in zip(tasks_of(items), wrong, strict=True)
            ]
            shown = work.bars.stage(f"weight {weight}", len(targets))
            scores = score_each(engine, items, targets, shown, book)
            means = {task: scores.mean(task) for task in tasks}
            alike = [means[task] for task in tasks if task in LOOKALIKES]
            rest = [means[task] for task in tasks if task not in LOOKALIKES]
            curve[weight] = {
                "all": 100 * scores.average,
                "look-alikes": 100 * sum(alike) / len(alike),
                "templates": 100 * sum(rest) / len(rest),
            }
    finally:
        engine.stop()
    write(path, {"prompts a task": PROMPTS, "curve": curve, "hard minus soft": _compared(curve)})


def _compared(curve: dict[float, dict[str, float]]) -> dict[str, Any]:
    """By kind of prompt, confidence and error: hard minus soft, in points."""
    found: dict[str, Any] = {}
    for kind in curve[1.0]:
        value = {weight: row[kind] for weight, row in curve.items()}
        found[kind] = {
            str(q): {
                str(e): (1 - e) * (value[1.0] - value[q]) + e * (value[0.0] - value[1 - q]) for e in ERRORS
            }
            for q in WEIGHTS
            if 0.5 <= q < 1
        }
    return found
