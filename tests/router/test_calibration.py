"""Calibration against brute force, a case by hand and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from router.calibration import (
    Novelty,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    rejection_threshold,
    smoothed_loss,
)


def overconfident(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(count, 4))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([generator.choice(4, p=row) for row in shares])
    return 3 * logits, labels


def test_temperature_is_the_best_of_a_grid() -> None:
    logits, labels = overconfident()
    grid = np.geomspace(0.05, 20, 4001)
    best = grid[np.argmin([smoothed_loss(logits, labels, t) for t in grid])]
    assert fit_temperature(logits, labels) == pytest.approx(best, rel=2e-3)


def test_temperature_undoes_overconfidence_and_smoothing_hardly_moves_it() -> None:
    logits, labels = overconfident()
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(3, rel=0.25)
    grid = np.geomspace(0.05, 20, 4001)
    plain = grid[np.argmin([negative_log_likelihood(logits / t, labels) for t in grid])]
    assert temperature == pytest.approx(plain, rel=0.02)


def test_no_error_in_few_examples_is_no_proof_of_certainty() -> None:
    labels = np.arange(20) % 2
    logits = np.where(labels[:, None] == np.arange(2), 2.0, -2.0)
    confidence = 1 / (1 + np.exp(-4 / fit_temperature(logits, labels)))
    # One uniform observation beside 20: (20 + 1/2) / 21.
    assert confidence == pytest.approx(20.5 / 21, abs=1e-4)


def test_temperature_of_a_single_task_is_finite() -> None:
    assert np.isfinite(fit_temperature(np.zeros((5, 1)), np.zeros(5, dtype=int)))


def test_expected_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.4, 0.6], [0.38, 0.62], [0.5, 0.5]])
    labels = np.array([0, 1, 1, 1, 0])
    # 15 bins: (14/15, 1] holds .95 .95 with one right; (8/15, 9/15] holds .6; (9/15, 10/15] holds
    # .62; (7/15, 8/15] holds .5. Weighted gaps: |1.9 - 1| + |.6 - 1| + |.62 - 1| + |.5 - 1|, over 5.
    expected = (0.9 + 0.4 + 0.38 + 0.5) / 5
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)
    # Of 4 bins, (.5, .75] holds both .6 and .62: |1.22 - 2|.
    coarse = expected_calibration_error(probabilities, labels, bins=4)
    assert coarse == pytest.approx((0.9 + 0.78 + 0.5) / 5)


def test_perfect_confidence_is_perfectly_calibrated() -> None:
    assert expected_calibration_error(np.eye(3), np.arange(3)) == 0


def test_distances_equal_sklearns_neighbours() -> None:
    generator = np.random.default_rng(2)
    features = generator.normal(size=(60, 20)) + 3
    probes = 3 * generator.normal(size=(15, 20))
    novelty = Novelty.fit(features, np.arange(60) % 3, seed=0)
    reference = NearestNeighbors(n_neighbors=5, metric="cosine").fit(features)
    expected = reference.kneighbors(probes)[0][:, 4]
    np.testing.assert_allclose(novelty.distances(probes), expected, atol=1e-6)
    assert novelty.references.dtype == np.float32 and novelty.references.shape == (60, 20)


def test_references_are_limited_evenly_and_repeatably() -> None:
    labels = np.repeat([0, 1, 2], [3000, 900, 20])
    features = np.eye(3)[labels] + 0.01
    novelty = Novelty.fit(features, labels, seed=1)
    kept = np.bincount(novelty.references.argmax(axis=1))
    assert kept.tolist() == [333, 333, 20]
    again = Novelty.fit(features, labels, seed=1)
    np.testing.assert_array_equal(novelty.references, again.references)


def test_features_of_zero_stay_finite() -> None:
    novelty = Novelty.fit(np.zeros((6, 4)), np.array([0, 0, 0, 1, 1, 1]), seed=0)
    assert np.isfinite(novelty.distances(np.eye(4))).all()


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("count", [1, 7, 50, 99, 100, 1000])
def test_threshold_keeps_the_stated_rate_on_validation(count: int, rate: float) -> None:
    distances = np.random.default_rng(count).chisquare(5, size=count)
    threshold = rejection_threshold(distances, rate)
    assert (distances > threshold).mean() <= rate
    assert threshold in distances


def test_threshold_keeps_the_stated_rate_on_later_prompts() -> None:
    generator = np.random.default_rng(3)
    rejected = [
        (generator.normal(size=500) > rejection_threshold(generator.normal(size=99), 0.1)).mean()
        for _ in range(400)
    ]
    # Split conformal: 10 of 100 ranks lie above, so the mean is 0.1, +- 3 standard errors.
    assert np.mean(rejected) == pytest.approx(0.1, abs=0.005)


def test_known_means_within_the_threshold() -> None:
    novelty = Novelty(np.tile(np.float32([1, 0]), (5, 1)), threshold=0.5)
    probes = np.array([[9.0, 1.0], [1.0, 1.7], [1.0, 1.8], [-1.0, 0.0], [np.nan, 0.0]])
    assert novelty.known(probes).tolist() == [True, True, False, False, False]
