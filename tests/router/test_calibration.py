"""Calibration against brute force and cases by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.calibration import (
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
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


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 5), st.integers(1, 20))
def test_reliability_accounts_for_every_prediction(seed: int, count: int, tasks: int, bins: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(tasks, 0.4), size=count)
    labels = generator.integers(0, tasks, count)
    rows = reliability(probabilities, labels, bins)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    assert sum(row["prompts"] for row in rows) == count
    assert sum(row["prompts"] * row["confidence"] for row in rows) == pytest.approx(confidence.sum())
    assert sum(row["prompts"] * row["accuracy"] for row in rows) == pytest.approx(right.sum())
    ends = [row["to"] for row in rows]
    assert ends == sorted(set(ends))
    for row in rows:
        assert row["prompts"] > 0 and 0 < row["to"] <= 1
        assert row["to"] - 1 / bins - 1e-9 <= row["confidence"] <= row["to"] + 1e-9
    gaps = sum(row["prompts"] * abs(row["confidence"] - row["accuracy"]) for row in rows)
    assert expected_calibration_error(probabilities, labels, bins) == pytest.approx(gaps / count)


def test_reliability_by_hand() -> None:
    probabilities = np.array([[0.5, 0.5], [0.3, 0.7], [0.8, 0.2], [0.0, 1.0], [0.72, 0.28]])
    rows = reliability(probabilities, np.array([0, 0, 0, 1, 1]), bins=4)
    assert [(row["to"], row["prompts"], row["accuracy"]) for row in rows] == [
        (0.5, 1, 1.0),
        (0.75, 2, 0.0),
        (1.0, 2, 1.0),
    ]
    assert [row["confidence"] for row in rows] == pytest.approx([0.5, 0.71, 0.9])
