"""What a router does with labelled prompts that it has not seen."""

from __future__ import annotations

from typing import Any

import numpy as np

from router.calibration import expected_calibration_error, negative_log_likelihood, reliability
from router.features import Matrix
from router.router import Router

# Shares of known prompts sent to the shared base, for which the abstention curve says what it buys.
REJECTED = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def measure(router: Router, x: Matrix, labels: np.ndarray) -> dict[str, Any]:
    """Of scaled features [n, d] with labels [n], by the order of the router's tasks:

    ``accuracy``, ``ece``, ``nll`` (nats), ``false_rejection`` (share sent to the shared base as unknown),
    ``below_threshold`` (share sent there as unsure), ``tasks`` {task: precision, recall,
    false_rejection}, ``confusion`` [true][predicted], ``reliability`` (a row an interval of confidence),
    ``abstention`` (accuracy of those kept, when the least confident share is not).
    """
    probabilities = router.probabilities(x)
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    rejected = ~router.known(x, probabilities)
    unsure = ~rejected & (confidence < router.settings.threshold)
    confusion = np.zeros((len(router.tasks), len(router.tasks)), dtype=int)
    np.add.at(confusion, (labels, predicted), 1)
    right = predicted == labels
    return {
        "accuracy": float(right.mean()),
        "ece": expected_calibration_error(probabilities, labels),
        "nll": negative_log_likelihood(np.log(np.maximum(probabilities, 1e-300)), labels),
        "false_rejection": float(rejected.mean()),
        "below_threshold": float(unsure.mean()),
        "tasks": {
            task: {
                "precision": _share(confusion[index, index], confusion[:, index].sum()),
                "recall": _share(confusion[index, index], confusion[index].sum()),
                "false_rejection": _share(rejected[labels == index].sum(), (labels == index).sum()),
            }
            for index, task in enumerate(router.tasks)
        },
        "confusion": confusion.tolist(),
        "reliability": reliability(probabilities, labels),
        "abstention": _abstention(confidence, right),
    }


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _abstention(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    order = np.argsort(-confidence, kind="stable")
    rows = []
    for share in REJECTED:
        kept = order[: max(1, round(len(order) * (1 - share)))]
        rows.append({"rejected": share, "accuracy": float(right[kept].mean())})
    return rows
