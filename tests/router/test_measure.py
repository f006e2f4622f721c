"""What is reported of a router equals scikit-learn's metrics and plain loops."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from router import Router, RouterSettings
from router.classifiers.logistic import Logistic
from router.measure import REJECTED, measure
from router.novelty import Novelty
from router.scaling import Scaling

TASKS = ("a", "b", "c")
WIDTH, COUNT = 6, 200


def by_hand(intercept: list[float]) -> Router:
    """A router of random weights that knows a good part of random prompts."""
    generator = np.random.default_rng(1)
    classifier = Logistic(
        generator.normal(size=(3, WIDTH)).astype(np.float32), np.array(intercept, dtype=np.float32)
    )
    references = generator.normal(size=(30, WIDTH))
    owner = np.repeat([0, 1, 2], 10)
    novelty = Novelty.fit(references, owner, seed=0)
    known = float(np.median(novelty.distances(generator.normal(size=(50, WIDTH)))))
    return Router(
        TASKS,
        RouterSettings(threshold=0.6),
        Scaling(np.ones(WIDTH, dtype=np.float32)),
        classifier,
        1.7,
        Novelty(novelty.references, novelty.owner, np.array([0.8, 1, 1.2]) * known),
    )


@pytest.fixture(scope="module")
def measured() -> tuple[dict[str, Any], Router, np.ndarray, np.ndarray]:
    router = by_hand([0, 0, 0])
    generator = np.random.default_rng(2)
    x = generator.normal(size=(COUNT, WIDTH)).astype(np.float32)
    # Right for the most part.
    right = router.probabilities(x).argmax(1)
    labels = np.where(generator.random(COUNT) < 0.7, right, generator.integers(0, 3, COUNT))
    return measure(router, x, labels), router, x, labels


def test_equal_to_scikit_learns_metrics(
    measured: tuple[dict[str, Any], Router, np.ndarray, np.ndarray],
) -> None:
    report, router, x, labels = measured
    logits = (x @ router.classifier.arrays()["coef"].T).astype(np.float64) / 1.7
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    predicted = probabilities.argmax(1)
    assert report["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert report["nll"] == pytest.approx(metrics.log_loss(labels, probabilities), rel=1e-5)
    assert report["confusion"] == metrics.confusion_matrix(labels, predicted).tolist()
    for average, key in ((metrics.precision_score, "precision"), (metrics.recall_score, "recall")):
        expected = average(labels, predicted, average=None)
        assert [report["tasks"][task][key] for task in TASKS] == pytest.approx(expected.tolist())


def test_rejections_by_a_plain_loop(
    measured: tuple[dict[str, Any], Router, np.ndarray, np.ndarray],
) -> None:
    report, router, x, labels = measured
    unknown, unsure = [0, 0, 0], 0
    assert router.novelty is not None
    for row, label in zip(x, labels, strict=True):
        best = router.probabilities(row[None])[0]
        known = router.novelty.distances(row[None])[0] <= router.novelty.thresholds[best.argmax()]
        unknown[label] += not known
        unsure += bool(known and best.max() < 0.6)
    assert 0 < sum(unknown) < COUNT and unsure > 0
    assert report["false_rejection"] == pytest.approx(sum(unknown) / COUNT)
    assert report["below_threshold"] == pytest.approx(unsure / COUNT)
    for task, rejected, own in zip(TASKS, unknown, np.bincount(labels), strict=True):
        assert report["tasks"][task]["false_rejection"] == pytest.approx(rejected / own)


def test_abstention_keeps_the_most_confident(
    measured: tuple[dict[str, Any], Router, np.ndarray, np.ndarray],
) -> None:
    report, router, x, labels = measured
    probabilities = router.probabilities(x)
    ranked = sorted(range(COUNT), key=lambda index: -probabilities[index].max())
    assert [row["rejected"] for row in report["abstention"]] == list(REJECTED)
    for row in report["abstention"]:
        kept = ranked[: round(COUNT * (1 - row["rejected"]))]
        right = [probabilities[index].argmax() == labels[index] for index in kept]
        assert row["accuracy"] == pytest.approx(np.mean(right))
    assert report["abstention"][0]["accuracy"] == report["accuracy"]


def test_calibration_is_by_interval(
    measured: tuple[dict[str, Any], Router, np.ndarray, np.ndarray],
) -> None:
    report = measured[0]
    assert sum(row["prompts"] for row in report["reliability"]) == COUNT
    gaps = [row["prompts"] * abs(row["confidence"] - row["accuracy"]) for row in report["reliability"]]
    assert report["ece"] == pytest.approx(sum(gaps) / COUNT)


def test_a_task_that_never_comes_has_no_share() -> None:
    # Task b is never predicted, and no prompt belongs to c.
    report = measure(by_hand([0, -1e6, 0]), np.eye(4, WIDTH, dtype=np.float32), np.array([0, 0, 1, 1]))
    assert report["tasks"]["b"]["precision"] is None and report["tasks"]["b"]["recall"] == 0
    assert report["tasks"]["c"]["recall"] is None and report["tasks"]["c"]["false_rejection"] is None


def test_a_report_is_plain_json(measured: tuple[dict[str, Any], Router, np.ndarray, np.ndarray]) -> None:
    report = measured[0]
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    certain = measure(by_hand([0, 0, -1e6]), np.eye(2, WIDTH, dtype=np.float32), np.array([2, 2]))
    assert np.isfinite(certain["nll"]) and certain["accuracy"] == 0
