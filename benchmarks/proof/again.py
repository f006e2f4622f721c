"""The headline once more, on test prompts that no choice here has seen: the second hundred."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.proof.bundles import BUNDLES, HEADLINE, bundle
from benchmarks.proof.plain import merge_scores, own_scores
from benchmarks.proof.zoo import DATA, RESULTS, TEST, ZOOS, Work, Zoo, write
from compress.bundle import Bundle
from serve.answers import Book
from serve.comparison import policies, routed_by
from serve.engine import Engine
from serve.evaluate import Scores, read_data, score, score_each
from serve.intervals import normalised, paired_interval
from serve.request import Target


def again(work: Work) -> None:
    """Every bundle by its own policy, softly and by the known task, beside the merge that was best on
    development prompts. Written after each bundle."""
    path = RESULTS / "proof_again.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for name in HEADLINE:
        if name not in found:
            found[name] = _measured(name, work)
            write(path, found)


def best_static(zoo: Zoo) -> str:
    """The merge with the best score on development prompts."""
    tuned = json.loads((RESULTS / f"proof_{zoo.name}_statics.json").read_text())
    best = {
        method: max(row["dev"] for row in own["tried"]) for method, own in tuned.items() if "tried" in own
    }
    return max(best, key=lambda method: best[method])


def _measured(name: str, work: Work) -> dict[str, Any]:
    zoo = ZOOS[BUNDLES[name][0]]
    tasks = zoo.recipe.tasks
    items = {task: own[TEST:] for task, own in read_data(DATA / "test", tasks, 2 * TEST).items()}
    static = best_static(zoo)
    scores = {"static": merge_scores(work, zoo.merged(static), items)}
    made = Bundle.open(bundle(name))
    shown = work.bars.stage(name, 3 * sum(map(len, items.values())))
    engine = Engine.open(made.path, work.settings)
    try:
        book = Book.of_bundle(work.answers, made, "float32")
        own_policy, others = policies(engine)
        targets = routed_by(own_policy, engine, items)
        scores["dynamic"] = score_each(engine, items, targets, shown, book)
        scores["soft"] = score_each(engine, items, routed_by(others["soft"], engine, items), shown, book)
        scores["oracle"] = score(engine, items, lambda task: Target("task", task=task), shown, book)
    finally:
        engine.stop()
    own = own_scores(work, zoo.recipe, items)
    return {
        "prompts": {task: len(part) for task, part in items.items()},
        "static": static,
        "normalised": {arm: list(vars(normalised(one, own)).values()) for arm, one in scores.items()},
        "dynamic minus static": list(vars(paired_interval(scores["dynamic"], scores["static"])).values()),
        "tasks": {arm: _percent(one) for arm, one in (scores | {"own": own}).items()},
    }


def _percent(scores: Scores) -> dict[str, float]:
    return {task: 100 * scores.mean(task) for task in scores.hits}
