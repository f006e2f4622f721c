"""Labelled prompts to a router: compared, fitted, calibrated and tested by the tool itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from compress.errors import InputError
from router.calibration import fit_temperature
from router.classifiers import classifier_class
from router.features import FeatureKind, Matrix, finite, query_features
from router.features.prefix import depth_of
from router.measure import measure
from router.novelty import Novelty, task_thresholds
from router.prompts import Prompt, distinct
from router.query import Query
from router.router import Router, encode
from router.scaling import Scaling
from router.selection import choose, compare, cross_fit, table
from router.settings import RouterSettings

TEST_SHARE = 0.15
Stage = Callable[[str, int, int], None]


def train_router(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    tasks: Sequence[str],
    settings: RouterSettings,
    progress: Stage | None = None,
    fingerprint: str = "",
) -> tuple[Router, dict[str, Any]]:
    """A router over ``tasks`` for ``model``, and what it measures on prompts kept for testing.

    Prompts that occur twice count once, those given to several tasks not at all. 15 % of the rest, drawn
    within each task, are only measured. With the others features and classifier are chosen by
    cross-validation (``router.selection``), and temperature and threshold are set on what fits without
    a prompt say of it. Equal seeds give equal routers. ``progress`` hears (stage, done, total).

    Raises InputError for a task with fewer than 10 prompts left, an unknown one, or a model whose
    features are not finite.

    The report: ``counts`` {split: {task: n}}, ``dropped`` {duplicates, conflicts}, ``comparison`` (a row
    a candidate) and ``reason``, and what ``router.measure`` says of the test prompts.
    """
    if "projection" in settings.features:
        raise InputError("router: projection features are for routers without prompts: give none")
    kept, dropped = distinct(prompts, tasks)
    labels = np.array([tasks.index(prompt.task) for prompt in kept])
    test = held_out(labels, settings.seed)
    train = ~test
    queries = [encode(tokenizer, prompt.turns, settings) for prompt in kept]
    for query, prompt in zip(queries, kept, strict=True):
        if not query.turns:
            raise InputError(f"a prompt of task {prompt.task!r} has no tokens: nothing to route")
    if "hidden" in settings.features:
        settings = settings.model_copy(update={"layer": depth_of(model, settings.layer)})
    extracted = {kind: _extract(kind, model, queries, settings, progress) for kind in settings.features}
    candidates = compare(
        {kind: matrix[train] for kind, matrix in extracted.items()},
        settings.classifiers if len(tasks) > 1 else ("logistic",),
        labels[train],
        len(tasks),
        settings.seed,
        None if progress is None else lambda done, total: progress("router: comparing", done, total),
    )
    chosen, reason = choose(candidates)
    settings = settings.model_copy(
        update={"features": (chosen.features,), "classifiers": (chosen.classifier,)}
    )
    features = extracted[chosen.features]
    router = fit(features[train], labels[train], tuple(tasks), settings, fingerprint)
    counts = {
        name: {task: int((split & (labels == index)).sum()) for index, task in enumerate(tasks)}
        for name, split in (("train", train), ("test", test))
    }
    report = {
        "counts": counts,
        "dropped": dropped,
        "comparison": table(candidates, chosen),
        "reason": reason,
        **measure(router, router.scaling.apply(features[test]), labels[test]),
    }
    return replace(router, report=report), report


def fit(
    features: Matrix, labels: np.ndarray, tasks: tuple[str, ...], settings: RouterSettings, fingerprint: str
) -> Router:
    """A calibrated router from features [n, d]; ``settings`` name one kind of features and classifier."""
    kind = settings.classifiers[0]
    compared = settings.compared(features.shape[1])
    held = cross_fit(features, labels, len(tasks), kind, settings.seed, novelty=True, compared=compared)
    scaling = Scaling.fit(features)
    x = scaling.apply(features)
    thresholds = task_thresholds(held.distances, labels, settings.false_rejection)
    return Router(
        tasks,
        settings,
        scaling,
        classifier_class(kind).fit(x, labels, len(tasks), settings.seed),
        fit_temperature(held.logits, labels),
        replace(Novelty.fit(x, labels, settings.seed, compared), thresholds=thresholds),
        fingerprint if settings.extractor(settings.features[0]).needs_model else "",
    )


def _extract(
    kind: FeatureKind,
    model: Any,
    queries: Sequence[Query],
    settings: RouterSettings,
    progress: Stage | None,
) -> Matrix:
    heard = None if progress is None else lambda done, total: progress(f"router: {kind}", done, total)
    features = query_features(settings.extractor(kind), model, queries, settings.history, heard)
    if not finite(features):
        raise InputError(f"the model gives {kind} features that are not finite: use float32 or bfloat16")
    return features


def held_out(labels: np.ndarray, seed: int) -> np.ndarray:
    """Which prompts are for testing, bool [n], drawn within each of ``labels`` [n]."""
    generator = np.random.default_rng(seed)
    test = np.zeros(len(labels), dtype=bool)
    for task in np.unique(labels):
        order = generator.permutation(np.flatnonzero(labels == task))
        test[order[: max(1, round(TEST_SHARE * len(order)))]] = True
    return test
