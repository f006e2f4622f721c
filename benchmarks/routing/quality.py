"""Right, calibrated, abstaining: routers of every kind of features on prompts they have not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logsumexp
from sklearn.covariance import ledoit_wolf

from benchmarks.routing.prompts import LOOKALIKES, Labelled, kinds, pairs, split
from benchmarks.routing.shares import share
from compress.bundle import Bundle
from router import Router, RouterSettings, dataless_router
from router.calibration import expected_calibration_error
from router.features import FeatureKind, Matrix, query_features
from router.features.prefix import depth_of
from router.novelty import rejection_threshold
from router.router import encode
from router.selection import choose, compare
from router.train import fit
from router.train import held_out as test_part

Step = Callable[[str], None]
# Training prompts a task.
TRAINED = 200


@dataclass
class Bench:
    """One bundle's shared base and prompts; features are extracted once a kind."""

    bundle: Bundle
    model: Any
    tokenizer: Any
    data: Path
    settings: RouterSettings
    step: Step

    def __post_init__(self) -> None:
        self.tasks = self.bundle.tasks
        self.pool, self.known = split(self.data, self.tasks)
        self.owner = np.array([self.tasks.index(str(task)) for task, _ in self.pool])
        chosen = self.first(TRAINED)
        self.labels = self.owner[chosen]
        self.texts = [self.pool[i][1] for i in chosen]
        self.truth = np.array([self.tasks.index(str(task)) for task, _ in self.known])

    def first(self, size: int) -> np.ndarray:
        """Which of ``pool`` are the first so many of each task."""
        return np.concatenate([np.flatnonzero(self.owner == k)[:size] for k in range(len(self.tasks))])

    def raw(self, kind: FeatureKind, texts: Sequence[str]) -> Matrix:
        """Features before scaling."""
        queries = [encode(self.tokenizer, (text,), self.settings) for text in texts]
        return query_features(self.settings.extractor(kind), self.model, queries, self.settings.history)


def quality(bench: Bench, kind: FeatureKind) -> dict[str, Any]:
    """One kind of features, the classifier chosen as in training."""
    bench.step(f"{kind}: features")
    raw = bench.raw(kind, bench.texts)
    candidates = compare({kind: raw}, bench.settings.classifiers, bench.labels, len(bench.tasks), 0)
    chosen, _ = choose(candidates)
    update = {"features": (kind,), "classifiers": (chosen.classifier,)}
    settings = bench.settings.model_copy(update=update)
    router = fit(raw, bench.labels, tuple(bench.tasks), settings, "")
    seen = bench.raw(kind, [text for _, text in bench.known])
    bench.step(f"{kind}: other prompts")
    found: dict[str, Any] = {
        "classifier": chosen.classifier,
        "log_loss": {c.classifier: c.log_loss for c in candidates},
        **_on_known(bench, router, router.scaling.apply(seen)),
    }
    others = kinds(bench.data, bench.tasks)
    raws = {name: bench.raw(kind, [text for _, text in own]) for name, own in others.items()}
    found["kinds"] = {
        name: _routed(bench, router, own, router.scaling.apply(raws[name])) for name, own in others.items()
    }
    if two := pairs(bench.data, bench.tasks):
        found["two tasks at once"] = _two(bench, router, two)
    bench.step(f"{kind}: tasks left out")
    found["left out"] = _left_out(bench, settings, raw, seen)
    if kind == "hidden":
        found["novelty"] = _novelties(bench, router, raw, seen, raws)
    return found


def dataless(bench: Bench) -> dict[str, Any]:
    """The router that was trained on nothing."""
    bench.step("dataless")
    table = bench.bundle.table()
    experts = [bench.bundle.expert(task, table) for task in bench.tasks]
    router, _ = dataless_router(bench.model, experts, bench.tasks, RouterSettings())
    queries = [router.query(bench.tokenizer, (text,)) for _, text in bench.known]
    return _on_known(bench, router, router.features(bench.model, queries))


def sizes(bench: Bench, kind: FeatureKind, most: Sequence[int]) -> dict[str, dict[str, float]]:
    """Accuracy with so many training prompts a task."""
    bench.step(f"{kind}: numbers of training prompts")
    raw = bench.raw(kind, [text for _, text in bench.pool])
    seen = bench.raw(kind, [text for _, text in bench.known])
    settings = bench.settings.model_copy(update={"features": (kind,), "classifiers": ("logistic",)})
    found = {}
    for size in most:
        chosen = bench.first(size)
        router = fit(raw[chosen], bench.owner[chosen], tuple(bench.tasks), settings, "")
        right = router.probabilities(router.scaling.apply(seen)).argmax(1) == bench.truth
        found[str(size)] = {name: float(right[group].mean()) for name, group in _groups(bench).items()}
    return found


def _groups(bench: Bench) -> dict[str, np.ndarray]:
    alike = np.isin(bench.truth, [k for k, task in enumerate(bench.tasks) if task in LOOKALIKES])
    groups = {"look-alikes": alike, "templates": ~alike}
    return {name: own for name, own in groups.items() if own.any()}


def _on_known(bench: Bench, router: Router, x: Matrix) -> dict[str, Any]:
    probabilities = router.probabilities(x)
    right = probabilities.argmax(1) == bench.truth
    accepted = router.known(x, probabilities)
    sure = probabilities.max(1) >= router.settings.threshold
    return {
        "accuracy": share(right),
        **{name: share(right[own]) for name, own in _groups(bench).items()},
        "ece": expected_calibration_error(probabilities, bench.truth),
        "false_rejection": share(~accepted),
        "routed": {
            "right expert": float((right & accepted & sure).mean()),
            "wrong expert": float((~right & accepted & sure).mean()),
            "shared base": float((~(accepted & sure)).mean()),
        },
    }


def _routed(bench: Bench, router: Router, prompts: Labelled, x: Matrix) -> dict[str, Any]:
    probabilities = router.probabilities(x)
    answered = router.known(x, probabilities) & (probabilities.max(1) >= router.settings.threshold)
    truth = np.array([-1 if task is None else bench.tasks.index(task) for task, _ in prompts])
    right = answered & (probabilities.argmax(1) == truth)
    return {
        "prompts": len(prompts),
        "right expert": float(right.mean()),
        "wrong expert": float((answered & ~right).mean()),
        "shared base": share(~answered),
    }


def _two(bench: Bench, router: Router, two: list[tuple[tuple[str, str], str]]) -> dict[str, Any]:
    x = router.scaling.apply(bench.raw(router.settings.features[0], [text for _, text in two]))
    probabilities = router.probabilities(x)
    answered = router.known(x, probabilities) & (probabilities.max(1) >= router.settings.threshold)
    asked = np.array([[bench.tasks.index(task) for task in both] for both, _ in two])
    best = probabilities.argmax(1)
    return {
        "prompts": len(two),
        "shared base": float((~answered).mean()),
        "one of the two": float((answered & (asked == best[:, None]).any(1)).mean()),
        "probability of both": float(np.take_along_axis(probabilities, asked, 1).sum(1).mean()),
    }


def _left_out(bench: Bench, settings: RouterSettings, raw: Matrix, seen: Matrix) -> dict[str, Any]:
    """Each task's held-out prompts, sent to the shared base by a router that has never heard of it."""
    found = {}
    for k, task in enumerate(bench.tasks):
        own = bench.labels != k
        labels = bench.labels[own] - (bench.labels[own] > k)
        tasks = tuple(t for t in bench.tasks if t != task)
        router = fit(raw[own], labels, tasks, settings, "")
        x = router.scaling.apply(seen[bench.truth == k])
        probabilities = router.probabilities(x)
        sure = probabilities.max(1) >= settings.threshold
        found[task] = share(~(router.known(x, probabilities) & sure))
    return found


Scores = dict[str, Callable[[Matrix], np.ndarray]]


def _scores(part: Router, x: Matrix, labels: np.ndarray) -> Scores:
    """Ways to tell that scaled features are of no task, from a router and what it was fitted on; all grow
    with strangeness."""
    means = np.stack([x[labels == k].mean(0) for k in range(len(part.tasks))])
    precision = np.linalg.inv(ledoit_wolf(x - means[labels])[0])

    def density(own: Matrix) -> np.ndarray:
        apart = own[:, None] - means[None]
        nearest: np.ndarray = np.einsum("nkd,de,nke->nk", apart, precision, apart, optimize=True).min(1)
        return nearest

    assert part.novelty is not None
    return {
        "distance to neighbours": part.novelty.distances,
        "density of task means": density,
        "energy": lambda own: -logsumexp(part.classifier.logits(own) / part.calibration, axis=1),
        "confidence": lambda own: -part.probabilities(own).max(1),
    }


def _novelties(
    bench: Bench, router: Router, raw: Matrix, seen: Matrix, others: dict[str, Matrix]
) -> dict[str, dict[str, float]]:
    """Scores of being unknown, each with the threshold that rejects 2 % of prompts held back from fitting: of
    known prompts, of others, and of each task by a router that has never heard of it."""
    held = test_part(bench.labels, 0)
    found: dict[str, dict[str, float]] = {}

    def thresholds(own: np.ndarray, tasks: tuple[str, ...]) -> tuple[Router, Scores, dict[str, float]]:
        labels = np.unique(bench.labels[own], return_inverse=True)[1]
        fitted, back = ~held[own], held[own]
        part = fit(raw[own][fitted], labels[fitted], tasks, router.settings, "")
        scores = _scores(part, part.scaling.apply(raw[own][fitted]), labels[fitted])
        x = part.scaling.apply(raw[own][back])
        return part, scores, {name: rejection_threshold(score(x), 0.02) for name, score in scores.items()}

    part, scores, limits = thresholds(np.ones(len(bench.labels), dtype=bool), router.tasks)
    for name, score in scores.items():
        found[name] = {"false rejection": float((score(part.scaling.apply(seen)) > limits[name]).mean())}
        for kind, own in others.items():
            found[name][kind] = float((score(part.scaling.apply(own)) > limits[name]).mean())
    for k, task in enumerate(bench.tasks):
        part, scores, limits = thresholds(bench.labels != k, tuple(t for t in bench.tasks if t != task))
        x = part.scaling.apply(seen[bench.truth == k])
        for name, score in scores.items():
            found[name][f"left out: {task}"] = float((score(x) > limits[name]).mean())
    return found


def settled(settings: RouterSettings, model: Any) -> RouterSettings:
    """The settings with the layer that this model gives them."""
    return settings.model_copy(update={"layer": depth_of(model, settings.layer)})
