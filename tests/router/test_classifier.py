"""The classifier's own arithmetic equals scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from router.classifier import Classifier


def blobs(tasks: int, count: int = 40, width: int = 12) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(tasks)
    labels = np.repeat(np.arange(tasks), count)
    centres = 100 + 3 * generator.normal(size=(tasks, width))
    features = centres[labels] + 2.5 * generator.normal(size=(len(labels), width))
    return features.astype(np.float32), labels


@pytest.mark.parametrize("tasks", [2, 3, 6])
def test_probabilities_equal_sklearns(tasks: int) -> None:
    features, labels = blobs(tasks)
    # In float64 throughout: the scaler would otherwise keep its input's float32.
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    reference.fit(features.astype(np.float64), labels)
    ours = Classifier.fit(features, labels, tasks)
    expected = reference.predict_proba(features.astype(np.float64))
    # Arrays are kept in float32, hence coefficients are rounded by 6e-8 of their size.
    np.testing.assert_allclose(ours.probabilities(features), expected, atol=1e-6)
    assert ours.coef.shape == (tasks, 12) and ours.intercept.shape == (tasks,)


def test_one_task_is_certain() -> None:
    features, labels = blobs(1)
    assert (Classifier.fit(features, labels, 1).probabilities(features) == 1.0).all()


def test_a_constant_feature_is_harmless() -> None:
    features, labels = blobs(3)
    features[:, 4] = 7.25
    probabilities = Classifier.fit(features, labels, 3).probabilities(features)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
