"""Many tasks: what training and asking cost with features that are simulated."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from router import Router, RouterSettings
from router.selection import choose, compare
from router.train import fit

WIDTH = 576
# Distance of task means over the deviation inside a task, a feature: chosen so that routing is not trivial.
APART = 0.35
ASKED = 1000


def simulated(tasks: int, prompts: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [n, WIDTH], labels, and the tasks' means."""
    generator = np.random.default_rng(seed)
    means = APART * generator.normal(size=(tasks, WIDTH))
    labels = np.repeat(np.arange(tasks), prompts)
    features = means[labels] + generator.normal(size=(len(labels), WIDTH))
    return features.astype(np.float32), labels, means


def train_many(tasks: int = 50, prompts: int = 200) -> dict[str, Any]:
    """Seconds of comparing all classifiers, choosing, fitting and calibrating on cached features."""
    features, labels, means = simulated(tasks, prompts, 0)
    started = time.perf_counter()
    candidates = compare({"hidden": features}, ("logistic", "mlp", "prototypes"), labels, tasks, 0)
    chosen, _ = choose(candidates)
    router = _fitted(features, labels, tasks, chosen.classifier)
    seconds = time.perf_counter() - started
    return {
        "tasks": tasks,
        "prompts": len(labels),
        "seconds": seconds,
        "chosen": chosen.classifier,
        **_asked(router, means),
    }


def ask_many(tasks: int = 1024, prompts: int = 10) -> dict[str, Any]:
    """Milliseconds a prompt of scoring, judging and choosing among so many tasks; prototypes, which train
    in a moment for any number of tasks."""
    features, labels, means = simulated(tasks, prompts, 1)
    started = time.perf_counter()
    router = _fitted(features, labels, tasks, "prototypes")
    return {"tasks": tasks, "seconds": time.perf_counter() - started, **_asked(router, means)}


def _fitted(features: np.ndarray, labels: np.ndarray, tasks: int, classifier: Any) -> Router:
    settings = RouterSettings(features=("hidden",), classifiers=(classifier,), layer=1)
    return fit(features, labels, tuple(f"task{k}" for k in range(tasks)), settings, "")


def _asked(router: Router, means: np.ndarray) -> dict[str, Any]:
    generator = np.random.default_rng(9)
    truth = generator.integers(0, len(means), ASKED)
    fresh = (means[truth] + generator.normal(size=(ASKED, WIDTH))).astype(np.float32)
    right = (router.probabilities(router.scaling.apply(fresh)).argmax(1) == truth).mean()
    alone = []
    for row in fresh[:200]:
        started = time.perf_counter()
        router.decide(router.scaling.apply(row[None]))
        alone.append(time.perf_counter() - started)
    return {"accuracy": float(right), "milliseconds": 1e3 * float(np.median(alone))}
