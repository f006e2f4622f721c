"""Labelled features without any text: Gaussian blobs, and counts of words as hashed n-grams give them."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from router.features import Matrix
from router.scaling import Scaling

WIDTH = 12


def dense(tasks: int, count: int = 40, spread: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    """Features [tasks * count, 12] that overlap, far from the origin, and their labels."""
    generator = np.random.default_rng(tasks)
    labels = np.repeat(np.arange(tasks), count)
    centres = 100 + 3 * generator.normal(size=(tasks, WIDTH))
    features = centres[labels] + spread * generator.normal(size=(len(labels), WIDTH))
    return features.astype(np.float32), labels


def sparse_counts(tasks: int, count: int = 40) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Counts [tasks * count, 300] of words, some of which each task prefers, and labels."""
    generator = np.random.default_rng(tasks)
    labels = np.repeat(np.arange(tasks), count)
    rates = generator.gamma(0.1, size=(tasks, 300)) + generator.gamma(0.1, size=300)
    counts = generator.poisson(0.3 * rates[labels])
    counts[:, 0] += 1  # no row is empty
    return sparse.csr_matrix(counts, dtype=np.float32), labels


MAKERS: dict[str, Any] = {"dense": dense, "sparse": sparse_counts}


def scaled(kind: str, tasks: int) -> tuple[Matrix, np.ndarray]:
    """Scaled features of ``MAKERS[kind]``, and labels."""
    features, labels = MAKERS[kind](tasks)
    return Scaling.fit(features).apply(features), labels
