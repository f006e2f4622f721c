"""How far a router may be trusted: probabilities that mean what they say, and unknown prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.covariance import ledoit_wolf

Array = np.ndarray

TEMPERATURES = (0.05, 20.0)


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


def expected_calibration_error(probabilities: Array, labels: Array, bins: int = 15) -> float:
    """ECE of Guo et al. 2017, 0 to 1: mean gap between confidence and accuracy.

    Predictions [n, K] fall into ``bins`` equal intervals ``(low, high]`` of confidence; each gap
    counts with the share of predictions in its interval.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = [abs(confidence[index == b].sum() - right[index == b].sum()) for b in np.unique(index)]
    return float(sum(gaps) / len(labels))


@dataclass(frozen=True)
class Novelty:
    """Distance of a feature to the nearest task, and how far is too far.

    Mahalanobis distance to class means with one covariance for all tasks (Lee et al. 2018),
    estimated with Ledoit and Wolf's shrinkage (2004) since features may outnumber prompts.
    means: [K, d]; whitening: [d, d] lower triangular L with ``L L^T`` the inverse covariance, so
    that a distance is ``|L^T (x - mean)|``; both float32, over standardised features.
    Known prompts have a distance of at most ``threshold``.

    Chosen by measurement over relative and per-task Mahalanobis, the same after PCA, nearest
    neighbours by cosine, the energy score and the largest probability: see docs/routing.md.
    """

    means: Array
    whitening: Array
    threshold: float = math.inf

    @classmethod
    def fit(cls, features: Array, labels: Array, tasks: int) -> Novelty:
        """Fit on standardised features [n, d] and labels [n]; the threshold is set apart."""
        means = np.stack([features[labels == task].mean(axis=0) for task in range(tasks)])
        covariance, _ = ledoit_wolf(features - means[labels], assume_centered=True)
        # A direction that never varied in training would have an infinite weight.
        floor = 1e-6 * max(np.trace(covariance) / len(covariance), 1e-6)
        precision = np.linalg.inv(covariance + floor * np.eye(len(covariance)))
        whitening = np.linalg.cholesky((precision + precision.T) / 2)
        return cls(means.astype(np.float32), whitening.astype(np.float32))

    def distances(self, features: Array) -> Array:
        """Distance [n] of standardised features [n, d] to the nearest task mean."""
        whitening = self.whitening.astype(np.float64)
        points, means = features @ whitening, self.means.astype(np.float64) @ whitening
        return np.linalg.norm(points[:, None, :] - means[None, :, :], axis=2).min(axis=1)

    def known(self, features: Array) -> Array:
        """Which of the standardised features [n, d] look like training prompts, bool [n]."""
        return self.distances(features) <= self.threshold


def rejection_threshold(distances: Array, false_rejection: float) -> float:
    """The distance that at most a ``false_rejection`` share of like prompts exceeds.

    distances [n] are those of held-out prompts that belong to a task: training prompts lie nearer
    to their own means than any later prompt. The quantile is that of split conformal prediction
    (Vovk et al. 2005), rank ``ceil((n + 1)(1 - rate))``: on a later prompt the rate holds on
    average too, not only on these. Too few of them for the rate: the largest distance.
    """
    count = len(distances)
    # The rate is a decimal fraction: 100 * (1 - 0.02) must not become 98.00000000000001.
    rank = math.ceil(round((count + 1) * (1 - false_rejection), 9))
    return float(np.sort(distances)[min(max(rank, 1), count) - 1])
