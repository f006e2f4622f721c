"""Features on a scale that classifiers and distances can work with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from compress.errors import InputError
from router.features import Matrix

Array = np.ndarray
# A hashed n-gram of fewer prompts tells nothing that another prompt would repeat.
FEWEST_DOCUMENTS = 2
TINY = 1e-30
# Of its mean, a deviation that half precision, in which features are kept, could not show.
STILL = 1e-4


@dataclass(frozen=True)
class Scaling:
    """weight: [d], float32. columns: which hashed n-grams are kept, [d], int32; None for dense features.

    Dense features are divided by their deviation and by the root of their number, so that rows have
    about unit length. Hashed n-grams are weighted by how rare they are among the training prompts,
    ``ln((1 + n) / (1 + df)) + 1`` (scikit-learn's smooth idf), and rows divided by their length.
    Neither is centred: of a single task the mean is the task.
    """

    weight: Array
    columns: Array | None = None

    @classmethod
    def fit(cls, features: Matrix) -> Scaling:
        """From training features [n, d]."""
        if sparse.issparse(features):
            documents = np.bincount(features.indices, minlength=features.shape[1])
            columns = np.flatnonzero(documents >= FEWEST_DOCUMENTS)
            if not len(columns):
                columns = np.flatnonzero(documents)
            idf = np.log((1 + features.shape[0]) / (1 + documents[columns])) + 1
            return cls(idf.astype(np.float32), columns.astype(np.int32))
        mean, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
        # A feature that hardly moved in training says nothing: dividing by 1 leaves it near zero.
        deviation[deviation <= STILL * np.abs(mean)] = 1.0
        return cls((1 / (deviation * np.sqrt(len(mean)))).astype(np.float32))

    def apply(self, features: Matrix) -> Matrix:
        """Scaled features, float32, of features [n, d']. InputError for another width."""
        if self.columns is None:
            if sparse.issparse(features) or features.shape[1] != len(self.weight):
                raise InputError(
                    f"the router was trained on features of size {len(self.weight)}, this model's have "
                    f"{features.shape[1]}: train a router for this model"
                )
            return features * self.weight
        # Renumbering what is there; slicing columns costs milliseconds whatever the prompt.
        place = self._places[np.minimum(features.indices, len(self._places) - 1)]
        kept = place >= 0
        ends = np.concatenate([[0], np.cumsum(kept)])[features.indptr]
        data = features.data[kept] * self.weight[place[kept]]
        shape = (features.shape[0], len(self.weight))
        return unit(sparse.csr_matrix((data, place[kept], ends), shape)).astype(np.float32)

    @cached_property
    def _places(self) -> Array:
        """Of every hashed n-gram: where it stands among those that are kept, or -1; the last stands for all
        that come after."""
        assert self.columns is not None
        places = np.full(int(self.columns.max(initial=-1)) + 2, -1, dtype=np.int32)
        places[self.columns] = np.arange(len(self.columns), dtype=np.int32)
        return places


def unit(x: Matrix) -> Matrix:
    """Rows [n, d] divided by their length, zeros left as they are. As scikit-learn's ``normalize``, whose
    checks cost several times what a single prompt's arithmetic does."""
    if sparse.issparse(x):
        lengths = np.sqrt(np.asarray(x.multiply(x).sum(1)).ravel())
        scaled = x.copy()
        scaled.data /= np.repeat(np.maximum(lengths, TINY), np.diff(x.indptr)).astype(x.dtype)
        return scaled
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), TINY)
