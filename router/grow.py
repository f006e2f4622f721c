"""A task more or less, without the prompts of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

from compress.errors import InputError
from router.classifiers.logistic import STEPS, STRENGTH, Logistic
from router.classifiers.mlp import Perceptron
from router.classifiers.prototypes import Prototypes
from router.features import Matrix, Progress, finite, stacked
from router.novelty import Novelty, rejection_threshold
from router.prompts import Prompt, distinct
from router.router import Router
from router.selection import FOLDS
from router.train import held_out

Array = np.ndarray


def extend(
    router: Router,
    model: Any,
    tokenizer: Any,
    task: str,
    prompts: Sequence[Prompt],
    progress: Progress | None = None,
) -> tuple[Router, dict[str, Any]]:
    """The router with one task more, and what it does with prompts held back.

    Only what belongs to the new task is fitted, against features of the others' prompts that the router
    keeps: a row of the last layer, or prototypes. So whatever the others' probabilities were, their
    ratios stay.

    The report: ``task``, ``prompts`` {train, test}, ``recall`` and ``false_rejection`` of the new task's
    test prompts, ``taken``: the share of the others' kept prompts that now go to it. Raises InputError for
    a task that is there already, too few prompts, or a router without prompts of its own to compare.
    """
    if task in router.tasks:
        raise InputError(f"the router knows the task {task!r} already")
    if router.novelty is None:
        raise InputError("a router made without prompts is made anew, not extended")
    kept, _ = distinct([prompt for prompt in prompts if prompt.task == task], [task])
    test = held_out(np.zeros(len(kept), dtype=int), router.settings.seed)
    queries = [router.query(tokenizer, prompt.turns) for prompt in kept]
    if not all(query.turns for query in queries):
        raise InputError(f"a prompt of task {task!r} has no words: remove it")
    x = router.features(model, queries, progress)
    if not finite(x):
        raise InputError("the model gives features that are not finite: use float32 or bfloat16")
    before = router.novelty.references
    grown = _with_task(router, x[~test], before, task)
    own, others = grown.probabilities(x[test]), grown.probabilities(before)
    report = {
        "task": task,
        "prompts": {"train": int((~test).sum()), "test": int(test.sum())},
        "recall": float((own.argmax(1) == len(router.tasks)).mean()),
        "false_rejection": float((~grown.known(x[test], own)).mean()),
        "taken": float((others.argmax(1) == len(router.tasks)).mean()),
    }
    added = [*router.report.get("added", []), report]
    return replace(grown, report={**router.report, "added": added}), report


def without(router: Router, task: str) -> Router:
    """The router with one task less. The others' probabilities keep their ratios.

    Raises InputError for a task that it does not know, and for its only one.
    """
    if task not in router.tasks:
        raise InputError(f"the router knows no task {task!r}; it knows {', '.join(router.tasks)}")
    if len(router.tasks) == 1:
        raise InputError(f"{task!r} is the router's only task: remove the router instead")
    assert router.novelty is not None
    k = router.tasks.index(task)
    kept = router.novelty.owner != k
    owner = router.novelty.owner[kept]
    novelty = replace(
        router.novelty,
        references=router.novelty.references[kept],
        owner=owner - (owner > k).astype(np.int32),
        thresholds=np.delete(router.novelty.thresholds, k),
    )
    classifier = router.classifier
    if isinstance(classifier, Logistic | Perceptron):
        parts = {name: np.delete(getattr(classifier, name), k, 0) for name in ("coef", "intercept")}
        classifier = replace(classifier, **parts)
    elif isinstance(classifier, Prototypes):
        own = classifier.owner != k
        left = classifier.owner[own]
        owners = (left - (left > k)).astype(np.float32)
        classifier = replace(classifier, centres=classifier.centres[own], owner=owners)
    tasks = tuple(t for t in router.tasks if t != task)
    removed = [*router.report.get("removed", []), task]
    return replace(
        router,
        tasks=tasks,
        classifier=classifier,
        novelty=novelty,
        report={**router.report, "removed": removed},
    )


def _with_task(router: Router, x: Matrix, before: Matrix, task: str) -> Router:
    assert router.novelty is not None
    classifier, seed, count = router.classifier, router.settings.seed, len(router.tasks)
    if isinstance(classifier, Prototypes):
        classifier = classifier.with_task(x, seed)
    else:
        assert isinstance(classifier, Logistic | Perceptron)
        inputs = [classifier.units(m) if isinstance(classifier, Perceptron) else m for m in (x, before)]
        others = [logsumexp(classifier.logits(m) / router.calibration, axis=1) for m in (x, before)]
        weight, intercept = (router.calibration * part for part in _row(*inputs, *others))
        classifier = replace(
            classifier,
            coef=np.concatenate([classifier.coef, weight[None]]).astype(np.float32),
            intercept=np.append(classifier.intercept, intercept).astype(np.float32),
        )
    own = np.full(x.shape[0], count)
    compared = router.novelty.compared
    novelty = router.novelty.joined(Novelty.fit(x, own, seed, compared))
    # What its own prompts need, each judged by the others.
    folds = np.random.default_rng(seed).permutation(x.shape[0]) % min(FOLDS, x.shape[0])
    distances = np.zeros(x.shape[0])
    for fold in np.unique(folds):
        part = Novelty.fit(x[folds != fold], own[folds != fold], seed, compared)
        distances[folds == fold] = router.novelty.joined(part).distances(x[folds == fold])
    needed = rejection_threshold(distances, router.settings.false_rejection)
    # No stricter than with the others: the least of theirs is what all their prompts together need.
    needed = max(needed, float(novelty.thresholds.min()))
    novelty = replace(novelty, thresholds=np.append(novelty.thresholds, needed))
    return replace(router, tasks=(*router.tasks, task), classifier=classifier, novelty=novelty)


def _row(x: Matrix, before: Matrix, above: Array, above_before: Array) -> tuple[Array, Array]:
    """Weights [d] and intercept of a new task from its own inputs and the others'.

    above, above_before: log-sum-exp of all other logits. With these fixed, softmax regression is logistic
    regression with an offset: the new task has probability ``sigmoid(w x + b - offset)``.
    """
    mean = np.zeros(before.shape[1]) if sparse.issparse(before) else before.mean(0, dtype=np.float64)
    parts = [part.astype(np.float64) if sparse.issparse(part) else part - mean for part in (x, before)]
    inputs = stacked(parts)
    offset = np.concatenate([above, above_before])
    sign = np.concatenate([np.ones(len(above)), -np.ones(len(above_before))])

    def loss(theta: Array) -> tuple[float, Array]:
        margin = sign * (inputs @ theta[:-1] + theta[-1] - offset)
        slope = -sign * expit(-margin)
        penalty = theta[:-1] @ theta[:-1] / (2 * STRENGTH)
        gradient = np.append(inputs.T @ slope + theta[:-1] / STRENGTH, slope.sum())
        return float(np.logaddexp(0, -margin).sum() + penalty), gradient

    start = np.append(np.zeros(inputs.shape[1]), offset.mean())
    theta = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x
    return theta[:-1], np.asarray(theta[-1] - theta[:-1] @ mean)
