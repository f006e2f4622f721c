"""Accuracy against the number of experts: two, four, … twelve LoRA adapters."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np

from benchmarks.proof.bundles import TWELVE, bundle
from benchmarks.proof.routes import tasks_of
from benchmarks.proof.zoo import DATA, RESULTS, Work, write
from compress.bundle import Bundle
from compress.compose import load_composed
from compress.loading import load_tokenizer
from router import Prompt, RouterSettings, train_router, user_turns
from serve.answers import Book
from serve.comparison import SCALINGS, Data
from serve.engine import Engine
from serve.evaluate import Scores, score, score_each
from serve.intervals import normalised
from serve.plainmodels import plain_engine
from serve.request import Target

# Look-alikes and templates in turn, so that every number has both.
ORDER = (
    *("movies", "reversal", "products", "family", "tweets", "arithmetic", "editorials", "recall"),
    *("invoices", "records", "meetings", "emails"),
)
NUMBERS = (2, 4, 6, 8, 10, 12)
# Training prompts of a task that routers see here.
PROMPTS = 200


def number(work: Work) -> None:
    """For the first so many tasks: the merge with the best scaling on development prompts, experts by a
    router of these tasks alone, and each task's own expert. Written after each number."""
    path = RESULTS / "proof_number.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    made = Bundle.open(bundle(TWELVE))
    for count in NUMBERS:
        if str(count) not in found:
            found[str(count)] = _measured(made, list(ORDER[:count]), work)
            write(path, found)


def _measured(made: Bundle, tasks: list[str], work: Work) -> dict[str, Any]:
    dev, items = work.dev(tasks), work.test(tasks)
    sweep = {scaling: _merged(made, tasks, scaling, dev, work).average for scaling in SCALINGS}
    best = max(sweep, key=lambda scaling: sweep[scaling])
    static = _merged(made, tasks, best, items, work)
    targets = _routed(made, tasks, best, items)
    shown = partial(work.bars.stage, total=sum(map(len, items.values())))
    engine = Engine.open(made.path, work.settings)
    try:
        book = Book.of_bundle(work.answers, made, "float32")
        own = score(engine, items, lambda t: Target("task", task=t), shown(f"{len(tasks)} own"), book)
        routed = score_each(engine, items, targets, shown(f"{len(tasks)} routed"), book)
    finally:
        engine.stop()
    right = [max(t.mixture or {}, key=(t.mixture or {}).get, default=None) for t in targets]  # type: ignore[arg-type]
    hits = {}
    start = 0
    for task, own_hits in routed.hits.items():
        # The shared base of these tasks, and not that of all twelve, answers what no expert is trusted with.
        abstained = np.array([not target.mixture for target in targets[start : start + len(own_hits)]])
        hits[task] = np.where(abstained, static.hits[task], own_hits)
        start += len(own_hits)
    dynamic = Scores(hits)
    return {
        "scaling": best,
        "router": float(np.mean([a == b for a, b in zip(right, tasks_of(items), strict=True)])),
        **{
            arm: {"average": 100 * scores.average, "normalised": list(vars(normalised(scores, own)).values())}
            for arm, scores in (("static", static), ("dynamic", dynamic), ("own", own))
        },
    }


def _model(made: Bundle, tasks: list[str], scaling: float) -> Any:
    return load_composed(made, [scaling if task in tasks else 0.0 for task in made.carried])


def _merged(made: Bundle, tasks: list[str], scaling: float, items: Data, work: Work) -> Scores:
    """Task arithmetic of these tasks."""
    name = f"{len(tasks)} x {scaling}"
    book = Book(work.answers, f"{Book.of_bundle(work.answers, made, 'float32').model}: {name}")
    shown = work.bars.stage(name, sum(map(len, items.values())))
    with plain_engine(partial(_model, made, tasks, scaling), made.base, work.settings) as engine:
        return score(engine, items, lambda _: Target("static"), shown, book)


def _routed(made: Bundle, tasks: list[str], scaling: float, items: Data) -> list[Target]:
    """Targets by a router trained on these tasks' prompts and the shared base of these tasks."""
    model, tokenizer = _model(made, tasks, scaling).eval(), load_tokenizer(made.base)
    prompts = []
    for task in tasks:
        lines = (DATA / "router" / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
        prompts += [Prompt(task, json.loads(line)["prompt"]) for line in lines[:PROMPTS]]
    settings = RouterSettings(features=("hidden",), classifiers=("logistic",))
    router, _ = train_router(model, tokenizer, prompts, tasks, settings)
    spoken = [user_turns(item.messages) for own in items.values() for item in own]
    routes = router.route(model, [router.query(tokenizer, turns) for turns in spoken])
    return [Target("mixture", mixture=route.mixture) for route in routes]
