"""The perceptron's arithmetic equals scikit-learn's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import sparse
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from router.classifiers.mlp import EPOCHS, PENALTY, UNITS, Perceptron
from tests.router import blobs


@pytest.mark.parametrize("tasks", [2, 3, 6])
@pytest.mark.parametrize("kind", blobs.MAKERS)
def test_probabilities_equal_scikit_learns(kind: str, tasks: int) -> None:
    x, labels = blobs.scaled(kind, tasks)
    centred = x if sparse.issparse(x) else x - x.mean(0, dtype=np.float64)
    inputs = centred * np.sqrt(x.shape[1])
    reference = MLPClassifier((UNITS,), alpha=PENALTY, max_iter=EPOCHS, random_state=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        reference.fit(inputs, labels)
    classifier = Perceptron.fit(x, labels, tasks, seed=3)
    np.testing.assert_allclose(
        softmax(classifier.logits(x), axis=1), reference.predict_proba(inputs), atol=1e-5
    )
    assert classifier.hidden.shape == (UNITS, x.shape[1]) and classifier.coef.shape == (tasks, UNITS)


def test_it_learns_what_no_line_separates() -> None:
    generator = np.random.default_rng(0)
    x = generator.uniform(-1, 1, size=(800, 2)).astype(np.float32)
    labels = (x[:, 0] * x[:, 1] > 0).astype(int)
    predicted = Perceptron.fit(x, labels, 2, seed=0).logits(x).argmax(1)
    assert (predicted == labels).mean() > 0.95


def test_stopping_early_warns_nobody() -> None:
    x, labels = blobs.scaled("dense", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Perceptron.fit(x, labels, 3, seed=0)


def test_another_seed_is_another_perceptron() -> None:
    x, labels = blobs.scaled("dense", 3)
    first, second = (Perceptron.fit(x, labels, 3, seed).hidden for seed in (0, 1))
    assert np.abs(first - second).max() > 0.01
