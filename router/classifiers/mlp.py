"""A perceptron with one hidden layer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from router.classifiers import Array, ClassifierKind, checked
from router.classifiers.logistic import two_rows
from router.features import Matrix

UNITS = 64
PENALTY = 0.1
EPOCHS = 60


@dataclass(frozen=True)
class Perceptron:
    """Logits ``coef · relu(hidden · x + bias) + intercept``: hidden [u, d], bias [u], coef [K, u],
    intercept [K], float32."""

    hidden: Array
    bias: Array
    coef: Array
    intercept: Array
    kind: ClassVar[ClassifierKind] = "mlp"

    @classmethod
    def fit(cls, x: Matrix, labels: Array, tasks: int, seed: int) -> Perceptron:
        width = x.shape[1]
        if tasks == 1:
            zeros = [np.zeros(shape, dtype=np.float32) for shape in ((1, width), 1, (1, 1), 1)]
            return cls(*zeros)
        # Adam's first steps want features near 1; the factor and the mean move into the weights.
        factor = np.sqrt(width)
        mean = np.zeros(width) if sparse.issparse(x) else x.mean(0, dtype=np.float64)
        inputs = x * factor if sparse.issparse(x) else (x - mean) * factor
        model = MLPClassifier((UNITS,), alpha=PENALTY, max_iter=EPOCHS, random_state=seed)
        with warnings.catch_warnings():
            # Stopping early is meant.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(inputs, labels)
        hidden = model.coefs_[0].T * factor
        coef, intercept = two_rows(model.coefs_[1].T, model.intercepts_[1], tasks)
        parts = (hidden, model.intercepts_[0] - hidden @ mean, coef, intercept)
        return cls(*(np.ascontiguousarray(part, dtype=np.float32) for part in parts))

    def units(self, x: Matrix) -> Array:
        """What the hidden layer makes of scaled features, [n, u]."""
        found: Array = np.maximum(np.asarray(x @ self._columns) + self.bias, 0)
        return found

    @cached_property
    def _columns(self) -> Array:
        return self.hidden.T.astype(np.float64)

    def logits(self, x: Matrix) -> Array:
        return self.units(x) @ self.coef.T.astype(np.float64) + self.intercept

    def arrays(self) -> dict[str, Array]:
        return {"hidden": self.hidden, "bias": self.bias, "coef": self.coef, "intercept": self.intercept}

    @classmethod
    def of(cls, arrays: Mapping[str, Array], tasks: int) -> Perceptron:
        (hidden,) = checked(arrays, hidden=(None, None))
        units = len(hidden)
        return cls(hidden, *checked(arrays, bias=(units,), coef=(tasks, units), intercept=(tasks,)))
