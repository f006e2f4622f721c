"""At equal bytes: what the delta is taken against, how its factors are stored, how experts are blended.

Real bundles of the eight full fine-tunes, each opened and asked by the engine that serves. One set of
singular vectors a reference serves all sizes. Mixtures come from one router, that of the bundle
``full-1.25``, so that nothing but the experts differs.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.proof.bundles import bundle
from benchmarks.proof.plain import base_scores, own_scores
from benchmarks.proof.routes import Routes, blends, routes_of
from benchmarks.proof.zoo import RESULTS, RUNS, ZOOS, Work, write
from compress.build import build
from compress.bundle import Bundle, create
from compress.recipe import ExclusiveRecipe, OutputRecipe, Recipe, SharedRecipe
from compress.workspace import Workspace
from serve.answers import Book
from serve.comparison import Data
from serve.engine import Engine
from serve.evaluate import Scores, score_each
from serve.intervals import normalised, paired_interval
from serve.request import Target

SIZES = ("1.03x", "1.05x", "1.1x", "1.25x", "1.5x")
DTYPES = ("float16", "int8", "mixed")
LARGEST = "40x"
# What base/ holds: the pretrained base, or a merge of the fine-tunes.
REFERENCES: dict[str, tuple[str, dict[str, Any]]] = {
    "pretrained": ("pretrained", {"method": "task_arithmetic", "scaling": 0.3}),
    "shared": ("shared", {"method": "task_arithmetic", "scaling": 0.3}),
}
NO_SPLIT = "no split"
PROMPTS = 50
# Dense copies of all eight experts and the shared base: nothing but time depends on it.
COPIES = 10


def ablation(work: Work) -> None:
    """Every reference, size, storage and policy; written after each bundle."""
    path = RESULTS / "proof_ablation.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"rows": []}
    zoo = ZOOS["full"]
    items = {task: own[:PROMPTS] for task, own in work.test(zoo.recipe.tasks).items()}
    known = {(row["reference"], row["size"], row["dtype"]) for row in found["rows"]}
    missing = [key for key in itertools.product(REFERENCES, SIZES, DTYPES) if key not in known]
    if not missing:
        return
    routes = routes_of(Bundle.open(bundle("full-1.25")), items)
    base, own = base_scores(work, zoo.recipe, items), own_scores(work, zoo.recipe, items)
    for reference, size, dtype in missing:
        found["rows"] += _measured(work, zoo.recipe, (reference, size, dtype), items, routes, base, own)
        found["prompts a task"] = min(map(len, items.values()))
        found["shared minus pretrained"] = differences(found["rows"])
        write(path, found)


def differences(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What it gives, prompt by prompt, to take deltas against the shared base: points, for each size, storage
    and policy that is measured with both."""
    keys = ("size", "dtype", "policy")
    found: dict[str, dict[tuple[str, ...], Scores]] = {reference: {} for reference in REFERENCES}
    for row in rows:
        if row["reference"] in found:
            hits = {task: np.array([*map(float, marks)]) for task, marks in row["hits"].items()}
            found[row["reference"]][tuple(row[key] for key in keys)] = Scores(hits)
    shared, pretrained = found["shared"], found["pretrained"]
    return [
        dict(zip(keys, key, strict=True))
        | {"points": list(vars(paired_interval(shared[key], pretrained[key])).values())}
        for key in pretrained
        if key in shared
    ]


def _measured(
    work: Work,
    recipe: Recipe,
    key: tuple[str, str, str],
    items: Data,
    routes: Routes,
    base: Scores,
    own: Scores,
) -> list[dict[str, Any]]:
    reference, size, dtype = key
    side, shared = REFERENCES[reference]
    exclusive = {"rank": None, "size": size, "dtype": dtype, "reference": side}
    wanted = recipe.model_copy(
        update={
            "shared": SharedRecipe.model_validate(shared),
            "exclusive": ExclusiveRecipe.model_validate(exclusive),
            "output": OutputRecipe(dtype="float16"),
            "router": None,
        }
    )
    name = " ".join(key)
    target = RUNS / "ablation" / name.replace(" ", "-")
    pieces = Workspace(RUNS / "ablation" / f"vectors-{reference}")
    _take_apart(wanted, pieces, work)
    with create(target) as fresh:
        _, report = build(wanted, fresh, pieces, progress=work.bars.report)
    made = Bundle.open(target)
    lost = sum(row["kept"] for row in report["experts"].values()) / len(report["experts"])
    rows = []
    memory = COPIES * 4 * made.manifest.base.parameters
    engine = Engine.open(target, work.settings.model_copy(update={"composed_memory": memory}))
    try:
        book = Book.of_bundle(work.answers, made, "float32")
        # What no expert is trusted with goes to the shared base here, without a split to the pretrained one.
        shared_fallback = routes.policy.model_copy(update={"fallback": "shared"})
        for policy, chosen in blends(shared_fallback, len(made.tasks)).items():
            targets = routes.targets(chosen)
            shown = work.bars.stage(f"{name} {policy}", len(targets))
            scores = score_each(engine, items, targets, shown, book)
            row = {"size": size, "dtype": dtype, "policy": policy, "kept": lost}
            row["storage"] = sum(made.bytes().values()) / (2 * made.manifest.base.parameters)
            rows.append({"reference": reference, **row, **_scores(scores, own)})
            if side == "pretrained":
                alone = _without_shared(scores, targets, base)
                rows.append({"reference": NO_SPLIT, **row, **_scores(alone, own)})
    finally:
        engine.stop()
    shutil.rmtree(target)
    return rows


def _take_apart(recipe: Recipe, pieces: Workspace, work: Work) -> None:
    """All singular vectors, kept in ``pieces``: a size that nothing is too large for takes everything apart,
    and no smaller size asks for others."""
    complete = pieces.folder / "complete"
    if complete.is_file():
        return
    largest = ExclusiveRecipe.model_validate(recipe.exclusive.model_dump() | {"size": LARGEST})
    out = pieces.folder.with_name("largest")
    with create(out) as fresh:
        build(recipe.model_copy(update={"exclusive": largest}), fresh, pieces, progress=work.bars.report)
    shutil.rmtree(out)
    complete.touch()


def _without_shared(scores: Scores, targets: Sequence[Target], base: Scores) -> Scores:
    """Experts over the pretrained base, and nothing shared: W_0 + sum w_t tau_t. For weights that sum to one
    that is what the bundle with a shared base computes (the shared part has weight 1 - sum w_t = 0); prompts
    that no expert is trusted with get the pretrained base's answer."""
    unrouted = np.array([not target.mixture for target in targets])
    start, hits = 0, {}
    for task, own in scores.hits.items():
        hits[task] = np.where(unrouted[start : start + len(own)], base.hits[task], own)
        start += len(own)
    return Scores(hits)


def _scores(scores: Scores, own: Scores) -> dict[str, Any]:
    share = normalised(scores, own)
    return {
        "average": 100 * scores.average,
        "normalised": [share.value, share.low, share.high],
        "tasks": {task: 100 * scores.mean(task) for task in scores.hits},
        "hits": {task: "".join("01"[int(hit)] for hit in hits) for task, hits in scores.hits.items()},
    }
