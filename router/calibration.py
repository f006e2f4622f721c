"""How far a router may be trusted: probabilities that mean what they say, and unknown prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

Array = np.ndarray

TEMPERATURES = (0.05, 20.0)
NEIGHBOURS = 5
REFERENCES = 1000


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
    """How unlike all training prompts a prompt is, and what is too unlike.

    The distance is ``1 - cosine`` to the fifth nearest training prompt, 0 to 2, over features
    divided by their deviation (Sun et al. 2022, deep nearest neighbours). references: [m, d],
    float32 unit vectors. Known prompts have a distance of at most ``threshold``.

    Neighbours and not Gaussians around task means (Lee et al. 2018), because any training prompt
    may be a neighbour, whereas a Gaussian learns the template that most of them share and turns
    rewordings away; and not the energy of the logits, which says nothing with a single task.
    Features are not centred: with one task the mean is the task. Only prompts worded in several
    ways in training make a router that knows rewordings: ``benchmarks/abstention.py`` measures it.
    """

    references: Array
    threshold: float = math.inf

    @classmethod
    def fit(cls, features: Array, labels: Array, seed: int) -> Novelty:
        """Keep up to 1,000 scaled features [n, d], evenly of each of ``labels`` [n]."""
        tasks = np.unique(labels)
        share = max(NEIGHBOURS, REFERENCES // len(tasks))
        generator = np.random.default_rng(seed)
        chosen = [generator.permutation(np.flatnonzero(labels == task))[:share] for task in tasks]
        return cls(_unit(features[np.sort(np.concatenate(chosen))]).astype(np.float32))

    def distances(self, features: Array) -> Array:
        """Distance [n] of scaled features [n, d]."""
        cosines = _unit(features) @ _unit(self.references).T
        return 1 - np.sort(cosines, axis=1)[:, -NEIGHBOURS]

    def known(self, features: Array) -> Array:
        """Which of the scaled features [n, d] look like training prompts, bool [n]."""
        return self.distances(features) <= self.threshold


def _unit(vectors: Array) -> Array:
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def rejection_threshold(distances: Array, false_rejection: float) -> float:
    """The distance that at most a ``false_rejection`` share of like prompts exceeds.

    distances [n] are those of held-out prompts that belong to a task: training prompts lie
    nearer to each other than any later prompt does. The quantile is that of split conformal prediction
    (Vovk et al. 2005), rank ``ceil((n + 1)(1 - rate))``: on a later prompt the rate holds on
    average too, not only on these. Too few of them for the rate: the largest distance.
    """
    count = len(distances)
    # The rate is a decimal fraction: 100 * (1 - 0.02) must not become 98.00000000000001.
    rank = math.ceil(round((count + 1) * (1 - false_rejection), 9))
    return float(np.sort(distances)[min(max(rank, 1), count) - 1])
