"""Nearness to a few prototypes of each task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import sparse
from sklearn.cluster import KMeans

from router.classifiers import Array, ClassifierKind, checked
from router.features import Matrix
from router.scaling import unit

# Prompts that a prototype stands for at least, and prototypes of a task at most.
SHARE, MOST = 8, 8


@dataclass(frozen=True)
class Prototypes:
    """Logits: the largest cosine between ``x - mean`` and a task's prototypes.

    mean [d]; centres [p, d] of unit length; owner [p], the task of each, as float32 like all arrays.
    Prototypes are the centres of k-means clusters, as in nearest-prototype classifiers.
    """

    mean: Array
    centres: Array
    owner: Array
    kind: ClassVar[ClassifierKind] = "prototypes"

    @classmethod
    def fit(cls, x: Matrix, labels: Array, tasks: int, seed: int) -> Prototypes:
        mean = np.zeros(x.shape[1]) if sparse.issparse(x) else x.mean(0, dtype=np.float64)
        none = np.zeros((0, x.shape[1]), dtype=np.float32)
        found = cls(mean.astype(np.float32), none, np.zeros(0, dtype=np.float32))
        for task in range(tasks):
            found = found.with_task(x[labels == task], seed)
        return found

    def with_task(self, x: Matrix, seed: int) -> Prototypes:
        """These and the prototypes of one task more, from its scaled features."""
        task = 0.0 if not len(self.owner) else self.owner[-1] + 1
        count = min(MOST, max(1, x.shape[0] // SHARE))
        centres = KMeans(count, n_init=1, random_state=seed).fit(self._unit(x)).cluster_centers_
        return Prototypes(
            self.mean,
            np.concatenate([self.centres, unit(centres).astype(np.float32)]),
            np.concatenate([self.owner, np.full(count, task, dtype=np.float32)]),
        )

    def logits(self, x: Matrix) -> Array:
        cosines = np.asarray(self._unit(x) @ self.centres.T, dtype=np.float64)
        owner = self.owner.astype(int)
        # Owners are sorted, so a task's prototypes stand side by side.
        return np.maximum.reduceat(cosines, np.searchsorted(owner, np.arange(owner.max() + 1)), axis=1)

    def _unit(self, x: Matrix) -> Matrix:
        return unit(x if sparse.issparse(x) else x - self.mean)

    def arrays(self) -> dict[str, Array]:
        return {"mean": self.mean, "centres": self.centres, "owner": self.owner}

    @classmethod
    def of(cls, arrays: Mapping[str, Array], tasks: int) -> Prototypes:
        (mean,) = checked(arrays, mean=(None,))
        (centres,) = checked(arrays, centres=(None, len(mean)))
        (owner,) = checked(arrays, owner=(len(centres),))
        if sorted(set(owner.tolist())) != list(range(tasks)) or (np.diff(owner) < 0).any():
            raise ValueError(f"owner does not name {tasks} tasks in order")
        return cls(mean, centres, owner)
