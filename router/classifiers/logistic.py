"""Multinomial logistic regression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from router.classifiers import Array, ClassifierKind, checked
from router.features import Matrix

# Inverse strength of the penalty, for features of unit length: docs/routing.md measures others.
STRENGTH = 10.0
STEPS = 300


@dataclass(frozen=True)
class Logistic:
    """Logits ``coef · x + intercept``; coef [K, d], intercept [K], float32."""

    coef: Array
    intercept: Array
    kind: ClassVar[ClassifierKind] = "logistic"

    @classmethod
    def fit(cls, x: Matrix, labels: Array, tasks: int, seed: int) -> Logistic:
        coef, intercept = np.zeros((tasks, x.shape[1])), np.zeros(tasks)
        if tasks > 1:
            # Centring only conditions the problem: it moves into the intercept.
            mean = np.zeros(x.shape[1]) if sparse.issparse(x) else x.mean(0, dtype=np.float64)
            centred = x.astype(np.float64) if sparse.issparse(x) else x - mean
            model = LogisticRegression(C=STRENGTH, max_iter=STEPS).fit(centred, labels)
            coef, intercept = two_rows(model.coef_, model.intercept_, tasks)
            intercept = intercept - coef @ mean
        return cls(np.ascontiguousarray(coef, dtype=np.float32), intercept.astype(np.float32))

    def logits(self, x: Matrix) -> Array:
        return np.asarray(x @ self._columns) + self.intercept

    @cached_property
    def _columns(self) -> Array:
        # Converting at every prompt costs more than the product.
        return self.coef.T.astype(np.float64)

    def arrays(self) -> dict[str, Array]:
        return {"coef": self.coef, "intercept": self.intercept}

    @classmethod
    def of(cls, arrays: Mapping[str, Array], tasks: int) -> Logistic:
        return cls(*checked(arrays, coef=(tasks, None), intercept=(tasks,)))


def two_rows(coef: Array, intercept: Array, tasks: int) -> tuple[Array, Array]:
    """scikit-learn keeps one row z for two classes: sigmoid(z) = softmax([-z/2, z/2])[1]."""
    if tasks != 2:
        return coef, intercept
    return np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
