"""What a merge must lose, by weights alone, and whether scores agree.

The static model's error for a task is ``||W_s - W_t||^2 / ||tau_t||^2``: 0 where it is the fine-tune, 1 where
it is as far from it as the pretrained model, above 1 where it is further. An expert's is the energy that its
truncation lost, on the same scale.

A distance is no score, and need not rank what scores lose: hence the correlation beside both.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import ConstantInputWarning, spearmanr


def linear_errors(dot: np.ndarray, scalings: Sequence[float]) -> np.ndarray:
    """Errors [K] of ``W_s = W_0 + sum_t lambda_t tau_t``, from the inner products [K, K] of the task vectors;
    NaN for a task vector of zero, which has no scale of its own."""
    weights, energy = np.asarray(scalings, dtype=float), np.diagonal(dot)
    return _relative(weights @ dot @ weights - 2 * dot @ weights + energy, energy)


def merged_errors(dot: np.ndarray) -> np.ndarray:
    """Errors [K] of any merge, from the inner products [K + 1, K + 1] of the task vectors and, last,
    ``W_s - W_0``; NaN as above."""
    energy = np.diagonal(dot)
    return _relative(energy[-1] - 2 * dot[-1, :-1] + energy[:-1], energy[:-1])


def _relative(distance: np.ndarray, energy: np.ndarray) -> np.ndarray:
    whole = energy > 0
    errors = np.divide(distance, energy, out=np.full(len(energy), np.nan), where=whole)
    # Where the merge is the fine-tune, rounding may end below zero.
    errors[whole] = np.maximum(errors[whole], 0.0)
    return errors


def beside_measured(
    section: Mapping[str, Any],
    static: Mapping[str, float],
    own: Mapping[str, float],
    scaling: float | None = None,
) -> dict[str, Any]:
    """The report's predicted loss of the static model beside the measured one, by task.

    section: ``kinship`` of report.json. static, own: scores by task, 0 to 1; the measured loss is their
    difference. scaling: of task arithmetic, where the static model is not the one of the report.
    ``spearman`` is the rank correlation over tasks and its p-value, None where either does not vary.
    """
    predicted = {task: loss["static"] for task, loss in section["loss"].items()}
    if scaling is not None:
        norms = np.sqrt([section["energy"][task]["total"] for task in section["tasks"]])
        dot = np.array(section["cosine"]) * norms[:, None] * norms[None, :]
        errors = linear_errors(dot, [scaling] * len(norms))
        predicted = {task: _number(e) for task, e in zip(section["tasks"], errors, strict=True)}
    rows = {
        task: {"predicted": error, "measured": own[task] - static[task]}
        for task, error in predicted.items()
        if error is not None and task in own and task in static
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        pairs = [(row["predicted"], row["measured"]) for row in rows.values()]
        found = spearmanr(*zip(*pairs, strict=True)) if len(pairs) > 2 else (np.nan, np.nan)
    spearman = None if np.isnan(found[0]) else [float(value) for value in found]
    return {"tasks": rows, "spearman": spearman}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
