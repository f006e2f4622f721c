"""Novelty: distances of scikit-learn's neighbours, and a threshold that keeps its rate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from router.novelty import Novelty, halved, rejection_threshold, task_thresholds
from tests.router import blobs


@pytest.mark.parametrize("kind", blobs.MAKERS)
def test_distances_equal_those_of_scikit_learns_neighbours(kind: str) -> None:
    x, labels = blobs.scaled(kind, 3)
    fitted, probes = x[::2], x[1::2]
    novelty = Novelty.fit(fitted, labels[::2], seed=0)
    reference = NearestNeighbors(n_neighbors=5, metric="cosine").fit(fitted)
    expected = reference.kneighbors(probes)[0][:, -1]
    found = novelty.distances(probes)
    assert found.dtype == np.float64 and found.shape == (probes.shape[0],)
    # References keep eleven binary digits.
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("kind", blobs.MAKERS)
def test_only_the_features_that_are_compared_say_what_is_near(kind: str) -> None:
    x, labels = blobs.scaled(kind, 3)
    half = x.shape[1] // 2
    novelty = Novelty.fit(x, labels, seed=0, compared=half)
    alone = Novelty.fit(x[:, :half], labels, seed=0)
    np.testing.assert_array_equal(novelty.distances(x), alone.distances(x[:, :half]))
    # All are kept: a classifier that grows learns from them.
    assert novelty.references.shape == x.shape
    assert novelty.joined(novelty).compared == half


@pytest.mark.parametrize("kind", blobs.MAKERS)
def test_the_length_of_a_row_does_not_matter(kind: str) -> None:
    x, labels = blobs.scaled(kind, 3)
    novelty = Novelty.fit(x, labels, seed=0)
    np.testing.assert_allclose(novelty.distances(x * 7), novelty.distances(x), atol=1e-6)
    np.testing.assert_allclose(
        Novelty.fit(x * 7, labels, seed=0).distances(x), novelty.distances(x), atol=1e-3
    )


@pytest.mark.parametrize("kind", blobs.MAKERS)
def test_references_are_what_half_precision_keeps_and_know_their_task(kind: str) -> None:
    x, labels = blobs.scaled(kind, 3)
    novelty = Novelty.fit(x, labels, seed=0)
    assert novelty.references.dtype == np.float32 and novelty.references.shape == x.shape
    assert novelty.owner.dtype == np.int32 and novelty.owner.tolist() == labels.tolist()
    assert sparse.issparse(novelty.references) == sparse.issparse(x)
    numbers: Any = novelty.references.data if sparse.issparse(x) else novelty.references
    np.testing.assert_array_equal(numbers, numbers.astype(np.float16))
    assert abs(halved(novelty.references) - novelty.references).max() == 0


def test_references_are_limited_evenly_and_repeatably() -> None:
    labels = np.repeat([0, 1, 2], [3000, 900, 20])
    features = np.eye(3)[labels] + 0.01
    novelty = Novelty.fit(features, labels, seed=1)
    assert np.bincount(novelty.references.argmax(axis=1)).tolist() == [333, 333, 20]
    assert np.bincount(novelty.owner).tolist() == [333, 333, 20]
    assert (novelty.owner == novelty.references.argmax(axis=1)).all()
    again = Novelty.fit(features, labels, seed=1)
    np.testing.assert_array_equal(novelty.references, again.references)


def test_other_seeds_keep_other_prompts() -> None:
    x, labels = blobs.dense(1, count=1500)
    first, second = (Novelty.fit(x, labels, seed).references for seed in (0, 1))
    assert first.shape == second.shape == (1000, blobs.WIDTH)
    assert not np.array_equal(first, second)


def test_features_of_zero_stay_finite() -> None:
    novelty = Novelty.fit(np.zeros((6, 4)), np.array([0, 0, 0, 1, 1, 1]), seed=0)
    assert novelty.distances(np.eye(4)).tolist() == [1, 1, 1, 1]
    counts = sparse.csr_matrix(np.eye(6, 8, dtype=np.float32))
    assert Novelty.fit(counts, np.zeros(6, dtype=int), seed=0).distances(0 * counts).tolist() == [1] * 6


def test_known_means_within_the_threshold_of_the_task_it_goes_to() -> None:
    references = np.tile(np.array([1, 0], dtype=np.float32), (5, 1))
    novelty = Novelty(references, np.zeros(5, dtype=np.int32), np.array([0.5, 0.1]))
    probes = np.array([[9.0, 1.0], [1.0, 1.7], [1.0, 1.8], [-1.0, 0.0], [np.nan, 0.0]])
    first, second = (novelty.known(probes, np.full(5, task)).tolist() for task in (0, 1))
    assert first == [True, True, False, False, False]
    assert second == [True, False, False, False, False]


def test_before_thresholds_are_set_everything_is_known() -> None:
    x, labels = blobs.scaled("dense", 3)
    novelty = Novelty.fit(x, labels, seed=0)
    assert novelty.thresholds.shape == (3,) and novelty.known(-x, labels).all()


def test_joined_novelties_know_the_prompts_of_both() -> None:
    for kind in blobs.MAKERS:
        x, labels = blobs.scaled(kind, 2)
        parts = [Novelty.fit(x[labels == task], labels[labels == task], seed=0) for task in (0, 1)]
        together = parts[0].joined(parts[1])
        assert together.owner.tolist() == labels.tolist()
        whole = Novelty.fit(x, labels, seed=0)
        np.testing.assert_allclose(together.distances(x), whole.distances(x), atol=1e-6)


def test_a_prompt_said_before_is_at_no_distance() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 32)).astype(np.float32)
    for row in rows:
        novelty = Novelty.fit(row[None].repeat(6, axis=0), np.zeros(6, dtype=int), seed=0)
        assert novelty.distances(novelty.references) == pytest.approx(0, abs=1e-6)


def test_no_distance_is_negative() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 32)).astype(np.float32)
    for row in rows:
        novelty = Novelty.fit(row[None].repeat(6, axis=0), np.zeros(6, dtype=int), seed=0)
        assert (novelty.distances(novelty.references) >= 0).all()


@pytest.mark.parametrize("kind", blobs.MAKERS)
def test_features_that_are_all_zero_are_never_known(kind: str) -> None:
    x, labels = blobs.scaled(kind, 3)
    novelty = replace(Novelty.fit(x, labels, seed=0), thresholds=np.full(3, 2.0))
    assert novelty.known(x, labels).all()
    assert not novelty.known(x * 0, labels).any()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_features_beyond_half_precision_stay_finite() -> None:
    x = 1e5 * (1 + 1e-5 * np.random.default_rng(0).normal(size=(20, 8))).astype(np.float32)
    assert np.isfinite(Novelty.fit(x, np.zeros(20, dtype=int), seed=0).distances(x)).all()


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("count", [1, 7, 50, 99, 100, 1000])
def test_threshold_keeps_the_stated_rate_on_what_it_is_set_on(count: int, rate: float) -> None:
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


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.floats(0, 2), min_size=1, max_size=60),
    st.floats(0, 0.99),
    st.floats(0, 0.99),
)
def test_a_higher_rate_never_rejects_fewer(distances: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    lenient, strict = (rejection_threshold(np.array(distances), rate) for rate in (low, high))
    assert strict <= lenient and {strict, lenient} <= set(distances)


@pytest.mark.parametrize(
    ("count", "rate", "rank"),
    [
        (10, 0.1, 10),  # 11 * 0.9 = 9.9
        (9, 0.1, 9),
        (99, 0.02, 98),
        (99, 0.5, 50),
        (4, 0.015, 4),  # too few of them
        # 10 * (1 - 0.7) is 3, not 3.0000000000000004.
        (9, 0.7, 3),
        (19, 0.85, 3),
    ],
)
def test_the_rank_by_hand(count: int, rate: float, rank: int) -> None:
    distances = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    assert rejection_threshold(distances, rate) == rank


def test_a_task_has_its_own_threshold_where_that_of_all_would_reject_more_of_it() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 90)
    distances = generator.random(90) + labels
    found = task_thresholds(distances, labels, 0.2)
    assert found.dtype == np.float64
    common = rejection_threshold(distances, 0.2)
    own = [rejection_threshold(distances[labels == k], 0.2) for k in range(3)]
    assert found.tolist() == [max(common, one) for one in own]
    assert own[0] < own[1] < common < own[2]
    assert all((distances[labels == k] > found[k]).mean() <= 0.2 for k in range(3))
