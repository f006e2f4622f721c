"""Whether a prompt is like those of any task."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse

from router.features import Matrix, stacked
from router.scaling import unit

Array = np.ndarray

NEIGHBOURS = 5
REFERENCES = 1000


@dataclass(frozen=True)
class Novelty:
    """How unlike all training prompts a prompt is, and what is too unlike.

    The distance is ``1 - cosine`` to the fifth nearest training prompt, 0 to 2, over scaled features
    (Sun et al. 2022, deep nearest neighbours). references: [m, d], float32 (to half precision, as they are
    stored), owner: [m], the task of each. thresholds: [K], float64: a prompt that goes to a task is known if
    its distance is at most that task's. compared: the first so many features alone say what is near, None =
    all of them.

    Neighbours and neither Gaussians around task means (Lee et al. 2018) nor the energy of the logits (Liu
    et al. 2020): docs/routing.md has all three measured. Only prompts worded in several ways in training
    make a router that knows rewordings.
    """

    references: Matrix
    owner: Array
    thresholds: Array
    compared: int | None = None

    @classmethod
    def fit(cls, x: Matrix, labels: Array, seed: int, compared: int | None = None) -> Novelty:
        """Keep up to 1,000 of scaled features [n, d], evenly of each of ``labels`` [n]; no threshold yet."""
        tasks = np.unique(labels)
        share = max(NEIGHBOURS, REFERENCES // len(tasks))
        generator = np.random.default_rng(seed)
        chosen = [generator.permutation(np.flatnonzero(labels == task))[:share] for task in tasks]
        kept = np.sort(np.concatenate(chosen))
        none = np.full(int(tasks.max()) + 1, np.inf)
        return cls(halved(x[kept]), labels[kept].astype(np.int32), none, compared)

    def joined(self, other: Novelty) -> Novelty:
        """Both ones' references, with this one's thresholds."""
        together = stacked([self.references, other.references])
        return replace(self, references=together, owner=np.concatenate([self.owner, other.owner]))

    def distances(self, x: Matrix) -> Array:
        """Distance [n] of scaled features [n, d]."""
        cosines = unit(self._leading(x)) @ self._columns
        cosines = cosines.toarray() if sparse.issparse(cosines) else np.asarray(cosines)
        nearest = np.partition(cosines, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS]
        return np.maximum(1 - nearest.astype(np.float64), 0)

    @cached_property
    def _columns(self) -> Matrix:
        # Turned once: scipy would convert the other layout at every product.
        units = unit(self._leading(self.references))
        return units.T.tocsr() if sparse.issparse(units) else units.T

    def _leading(self, x: Matrix) -> Matrix:
        # Slicing all columns of a sparse matrix would copy it at every prompt.
        return x if self.compared is None else x[:, : self.compared]

    def known(self, x: Matrix, tasks: Array) -> Array:
        """Which of the scaled features [n, d] look like training prompts, bool [n]; ``tasks`` [n] are the
        tasks that they would go to."""
        squares = np.asarray(x.multiply(x).sum(1)).ravel() if sparse.issparse(x) else (x * x).sum(1)
        # Of a text without a single n-gram that training knows, nothing is known.
        known: Array = (self.distances(x) <= self.thresholds[tasks]) & (squares > 0)
        return known


def halved(x: Matrix) -> Matrix:
    """``x`` as storing it in half precision leaves it, in float32."""
    if sparse.issparse(x):
        half = x.astype(np.float32)
        half.data = half.data.astype(np.float16).astype(np.float32)
        return half
    largest = np.finfo(np.float16).max
    return x.clip(-largest, largest).astype(np.float16).astype(np.float32)


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


def task_thresholds(distances: Array, labels: Array, false_rejection: float) -> Array:
    """The larger of two ``rejection_threshold``: of all prompts, and of each task's own, [K].

    Of all alone, tasks whose prompts vary most would bear most false rejections; of its own alone, a task
    with a single template would reject every typing error. So the rate holds for every task (Vovk 2012,
    Mondrian conformal prediction).
    """
    common = rejection_threshold(distances, false_rejection)
    own = [rejection_threshold(distances[labels == k], false_rejection) for k in range(int(labels.max()) + 1)]
    return np.maximum(own, common)
