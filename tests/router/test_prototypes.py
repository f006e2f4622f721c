"""Prototypes: cosines to the centres of clusters, written out as loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from router.classifiers.prototypes import MOST, SHARE, Prototypes
from router.features import Matrix
from tests.router import blobs


def rows_of(x: Matrix) -> np.ndarray:
    return np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float64)


@pytest.mark.parametrize("kind", blobs.MAKERS)
def test_a_logit_is_the_largest_cosine_to_a_prototype_of_the_task(kind: str) -> None:
    x, labels = blobs.scaled(kind, 3)
    classifier = Prototypes.fit(x, labels, 3, seed=0)
    found = classifier.logits(x)
    for row, logits in zip(rows_of(x), found, strict=True):
        away = row - classifier.mean
        best = [-np.inf] * 3
        for centre, task in zip(classifier.centres.astype(np.float64), classifier.owner, strict=True):
            cosine = away @ centre / np.linalg.norm(away) / np.linalg.norm(centre)
            best[int(task)] = max(best[int(task)], cosine)
        np.testing.assert_allclose(logits, best, atol=1e-6)


@pytest.mark.parametrize("kind", blobs.MAKERS)
def test_a_small_tasks_prototype_is_the_mean_of_its_directions(kind: str) -> None:
    x, labels = blobs.scaled(kind, 2)
    few = np.flatnonzero(labels == 1)[: 2 * SHARE - 1]
    chosen = np.concatenate([np.flatnonzero(labels == 0), few])
    classifier = Prototypes.fit(x[chosen], labels[chosen], 2, seed=0)
    rows = rows_of(x[few]) - (0 if sparse.issparse(x) else rows_of(x[chosen]).mean(0))
    expected = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0)
    np.testing.assert_allclose(classifier.centres[-1], expected / np.linalg.norm(expected), atol=1e-5)
    assert classifier.owner.tolist().count(1.0) == 1


def test_a_prototype_stands_for_several_prompts_and_there_are_few() -> None:
    x, labels = blobs.dense(2, count=200)
    kept = np.concatenate([np.arange(200), np.arange(200, 200 + 3 * SHARE)])
    classifier = Prototypes.fit(x[kept], labels[kept], 2, seed=0)
    assert classifier.owner.tolist() == [0.0] * MOST + [1.0] * 3
    np.testing.assert_allclose(np.linalg.norm(classifier.centres, axis=1), 1, rtol=1e-6)


def test_a_task_of_two_kinds_of_prompts_has_a_prototype_for_each() -> None:
    generator = np.random.default_rng(0)
    centres = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0]])
    x = (centres.repeat(20, 0) + 0.05 * generator.normal(size=(60, 3))).astype(np.float32)
    labels = np.repeat([0, 0, 1], 20)
    predicted = Prototypes.fit(x, labels, 2, seed=0).logits(x).argmax(1)
    assert (predicted == labels).all()
