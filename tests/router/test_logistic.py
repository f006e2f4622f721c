"""Logistic regression: its arithmetic and its optimum equal scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from router.classifiers.logistic import STEPS, STRENGTH, Logistic, two_rows
from tests.router import blobs


@pytest.mark.parametrize("tasks", [2, 3, 6])
@pytest.mark.parametrize("kind", blobs.MAKERS)
def test_probabilities_equal_scikit_learns(kind: str, tasks: int) -> None:
    x, labels = blobs.scaled(kind, tasks)
    # The penalty leaves the intercept alone, so centring moves no optimum, only the way there.
    inputs = x.astype(np.float64) if sparse.issparse(x) else x - x.mean(0, dtype=np.float64)
    reference = LogisticRegression(C=STRENGTH, max_iter=STEPS).fit(inputs, labels)
    found = softmax(Logistic.fit(x, labels, tasks, seed=0).logits(x), axis=1)
    # Arrays are kept in float32, hence coefficients are rounded by 6e-8 of their size.
    np.testing.assert_allclose(found, reference.predict_proba(inputs), atol=1e-5)


@pytest.mark.parametrize("kind", blobs.MAKERS)
def test_the_optimum_is_reached_without_centring_too(kind: str) -> None:
    x, labels = blobs.scaled(kind, 3)
    reference = LogisticRegression(C=STRENGTH, max_iter=20_000, tol=1e-8).fit(x.astype(np.float64), labels)
    found = softmax(Logistic.fit(x, labels, 3, seed=0).logits(x), axis=1)
    np.testing.assert_allclose(found, reference.predict_proba(x.astype(np.float64)), atol=2e-3)


def test_the_seed_does_not_matter() -> None:
    x, labels = blobs.scaled("dense", 3)
    first, second = (Logistic.fit(x, labels, 3, seed) for seed in (0, 1))
    np.testing.assert_array_equal(first.coef, second.coef)


def test_two_rows_mean_what_one_did() -> None:
    z = np.array([[-3.0], [0.0], [0.7]])
    coef, intercept = two_rows(np.array([[2.0]]), np.array([0.5]), 2)
    found = softmax(z @ coef.T + intercept, axis=1)[:, 1]
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-(2 * z[:, 0] + 0.5))))
    three = np.ones((3, 4)), np.ones(3)
    assert two_rows(*three, 3) == three
