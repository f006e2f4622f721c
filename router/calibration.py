"""Probabilities that mean what they say."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

Array = np.ndarray

TEMPERATURES = (0.05, 20.0)
BINS = 15


def negative_log_likelihood(logits: Array, labels: Array) -> float:
    """Mean of ``-log softmax(logits)[label]`` in nats, logits [n, K], labels [n]."""
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def smoothed_loss(logits: Array, labels: Array, temperature: float) -> float:
    """What ``fit_temperature`` minimises: cross-entropy plus one evenly labelled observation.

    On logits [n, K] that are right everywhere, plain likelihood would drive the temperature to 0
    and every confidence to 1, which n examples cannot show. So each label keeps n / (n + 1) of
    its weight and spreads the rest over all K tasks (Platt 1999, targets with a uniform prior).
    """
    count, tasks = logits.shape
    targets = np.full((count, tasks), 1 / (count + 1) / tasks)
    targets[np.arange(count), labels] += count / (count + 1)
    return float(-(targets * log_softmax(logits / temperature, axis=1)).sum(axis=1).mean())


def fit_temperature(logits: Array, labels: Array) -> float:
    """The scalar T for which ``softmax(logits / T)`` fits held-out labels best (Guo et al. 2017)."""
    low, high = np.log(TEMPERATURES)
    best = minimize_scalar(
        lambda log_t: smoothed_loss(logits, labels, math.exp(log_t)),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(best.x))


def expected_calibration_error(probabilities: Array, labels: Array, bins: int = BINS) -> float:
    """ECE of Guo et al. 2017, 0 to 1: mean gap between confidence and accuracy.

    Predictions [n, K] fall into ``bins`` equal intervals ``(low, high]`` of confidence; each gap
    counts with the share of predictions in its interval.
    """
    rows = reliability(probabilities, labels, bins)
    return sum(row["prompts"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / len(labels)


def reliability(probabilities: Array, labels: Array, bins: int = BINS) -> list[dict[str, float]]:
    """For every interval of confidence that holds predictions: its upper end, how many ``prompts`` it
    holds, their mean ``confidence`` and their ``accuracy``."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return [
        {
            "to": (b + 1) / bins,
            "prompts": int((index == b).sum()),
            "confidence": float(confidence[index == b].mean()),
            "accuracy": float(right[index == b].mean()),
        }
        for b in np.unique(index).tolist()
    ]
