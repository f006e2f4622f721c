"""Labelled prompts to a router, split, fitted, calibrated and tested by the tool itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from compress.errors import InputError
from router.calibration import (
    Novelty,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    rejection_threshold,
)
from router.classifier import Classifier
from router.features import Progress
from router.jsonl import prompt_of, read_jsonl
from router.router import Router
from router.settings import RouterSettings
from router.text import routing_text, routing_tokens

FEWEST_PROMPTS = 10
SPLITS = ("train", "validation", "test")
HELD_OUT_SHARE = 0.15


@dataclass(frozen=True)
class Prompt:
    """One labelled example: the text that would be routed, and the task it belongs to."""

    task: str
    text: str


def read_prompts(path: Path, tasks: Sequence[str]) -> list[Prompt]:
    """Labelled prompts of a JSON Lines file, ``{"task": …, "prompt" | "messages": …}`` a line; or of a
    folder with one such file a task, ``<task>.jsonl``, whose lines need not name it.

    Of a folder only the files of ``tasks`` are read. Raises InputError that starts with
    ``file:line:`` for a bad line.
    """
    if not path.is_dir():
        return read_jsonl(path, _prompt, '{"task": "NAME", "prompt": "TEXT"}')
    prompts: list[Prompt] = []
    for task in tasks:
        parse = partial(_prompt, default=task)
        prompts += read_jsonl(path / f"{task}.jsonl", parse, '{"prompt": "TEXT"}')
    return prompts


def _prompt(content: dict[str, Any], default: str | None = None) -> Prompt:
    task = content.get("task", default)
    if not isinstance(task, str) or not task:
        raise InputError('"task" must be the name of a task')
    if default is not None and task != default:
        raise InputError(f'"task" is {task!r} in the file of {default!r}: move the line to its own file')
    return Prompt(task, routing_text(prompt_of(content)).strip())


def train_router(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    tasks: Sequence[str],
    settings: RouterSettings,
    progress: Progress | None = None,
) -> tuple[Router, dict[str, Any]]:
    """A router over ``tasks`` for ``model``, and what it measures on prompts kept for testing.

    Prompts that occur twice count once, those given to several tasks not at all. The rest is
    split 70/15/15 within each task: features of the first part fit classifier and novelty, the
    second sets temperature and threshold, the third is only measured. Equal seeds give equal
    routers. Raises InputError for a task with fewer than 10 prompts left, or an unknown one.

    The report: ``counts`` {split: {task: n}}, ``dropped`` {duplicates, conflicts}, and on the test
    split ``accuracy``, ``ece``, ``nll`` (nats), ``false_rejection`` (share sent to the shared base
    as unknown), ``below_threshold`` (share sent there as unsure), ``false_rejection_by_task``,
    ``confusion`` [true][predicted] in the order of ``tasks``.
    """
    kept, dropped = distinct(prompts, tasks)
    labels = np.array([tasks.index(prompt.task) for prompt in kept])
    split = _split(labels, len(tasks), settings.seed)
    tokens = [routing_tokens(tokenizer, prompt.text) for prompt in kept]
    settings = settings.model_copy(update={"layer": settings.features().depth(model)})
    features = settings.features().extract(model, tokens, progress)
    if not np.isfinite(features).all():
        raise InputError("the model gives hidden states that are not finite: use float32 or bfloat16")

    train, validation, test = (split == part for part in range(len(SPLITS)))
    classifier = Classifier.fit(features[train], labels[train], len(tasks))
    temperature = fit_temperature(classifier.logits(features[validation]), labels[validation])
    classifier = replace(classifier, temperature=temperature)
    scaled = features / classifier.scale
    novelty = Novelty.fit(scaled[train], labels[train], settings.seed)
    threshold = rejection_threshold(novelty.distances(scaled[validation]), settings.false_rejection)
    novelty = replace(novelty, threshold=threshold)

    counts = {
        name: {task: int(((split == part) & (labels == index)).sum()) for index, task in enumerate(tasks)}
        for part, name in enumerate(SPLITS)
    }
    router = Router(tuple(tasks), settings, classifier, novelty)
    measured = _measure(router, features[test], labels[test])
    report = {"counts": counts, "dropped": dropped, **measured}
    return replace(router, report=report), report


def distinct(prompts: Sequence[Prompt], tasks: Sequence[str]) -> tuple[list[Prompt], dict[str, int]]:
    """Prompts of exactly one task, each once, and how many were dropped as duplicates or conflicts.

    Raises InputError for an unknown task, or one with fewer than 10 prompts left.
    """
    owners: dict[str, set[str]] = {}
    for prompt in prompts:
        if prompt.task not in tasks:
            raise InputError(f"a prompt names the task {prompt.task!r}; known: {', '.join(tasks)}")
        owners.setdefault(prompt.text, set()).add(prompt.task)
    kept = [Prompt(next(iter(owner)), text) for text, owner in owners.items() if len(owner) == 1]
    for task in tasks:
        count = sum(prompt.task == task for prompt in kept)
        if count < FEWEST_PROMPTS:
            raise InputError(
                f"task {task!r} has {count} distinct prompts of its own: give at least {FEWEST_PROMPTS}"
            )
    conflicts = sum(len(owner) > 1 for owner in owners.values())
    return kept, {"duplicates": len(prompts) - len(owners), "conflicts": conflicts}


def _split(labels: np.ndarray, tasks: int, seed: int) -> np.ndarray:
    """Index into SPLITS of every prompt, drawn anew within each task."""
    generator = np.random.default_rng(seed)
    split = np.zeros(len(labels), dtype=int)
    for task in range(tasks):
        order = generator.permutation(np.flatnonzero(labels == task))
        held = max(1, round(HELD_OUT_SHARE * len(order)))
        split[order[:held]] = SPLITS.index("validation")
        split[order[held : 2 * held]] = SPLITS.index("test")
    return split


def _measure(router: Router, features: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    probabilities = router.classifier.probabilities(features)
    predicted = probabilities.argmax(axis=1)
    rejected = ~router.novelty.known(features / router.classifier.scale)
    unsure = ~rejected & (probabilities.max(axis=1) < router.settings.threshold)
    confusion = np.zeros((len(router.tasks), len(router.tasks)), dtype=int)
    np.add.at(confusion, (labels, predicted), 1)
    logits = router.classifier.logits(features) / router.classifier.temperature
    return {
        "accuracy": float((predicted == labels).mean()),
        "ece": expected_calibration_error(probabilities, labels),
        "nll": negative_log_likelihood(logits, labels),
        "false_rejection": float(rejected.mean()),
        "below_threshold": float(unsure.mean()),
        "false_rejection_by_task": {
            task: float(rejected[labels == index].mean()) for index, task in enumerate(router.tasks)
        },
        "confusion": confusion.tolist(),
    }
