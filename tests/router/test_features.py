"""Conversations: the mean of their turns' features, the last one weighing most."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from router.features import Features, query_features
from router.features.embedding import EmbeddingFeatures
from router.features.hidden import HiddenStateFeatures
from router.features.tfidf import TfidfFeatures
from router.query import Query
from tests.router.prompts import turn

A, B, C, D = (turn(text) for text in ("12345", "ABC ABC", "jklm!", "9"))
CONVERSATIONS = [Query(turns) for turns in ((A,), (A, B), (B, A), (A, A, B), (C, B, A, D), (D, D), (C,))]
KINDS: dict[str, Features] = {
    "embedding": EmbeddingFeatures(),
    "tfidf": TfidfFeatures(),
    "hidden": HiddenStateFeatures(layer=1),
}


@pytest.fixture(params=KINDS)
def features(request: pytest.FixtureRequest) -> Features:
    return KINDS[request.param]


def dense(matrix: Any) -> np.ndarray:
    assert matrix.dtype == np.float32
    return matrix.toarray() if sparse.issparse(matrix) else matrix


@pytest.mark.parametrize("history", [0.01, 0.5, 0.9, 1.0])
def test_equal_to_a_plain_loop(model: Any, features: Features, history: float) -> None:
    found = dense(query_features(features, model, CONVERSATIONS, history))
    for row, query in zip(found, CONVERSATIONS, strict=True):
        total, weights = np.zeros(found.shape[1]), 0.0
        for age, said in enumerate(reversed(query.turns)):
            total += history**age * dense(features.extract(model, [said]))[0].astype(np.float64)
            weights += history**age
        np.testing.assert_allclose(row, total / weights, atol=2e-6, rtol=1e-5)


def test_without_history_only_the_last_turn_counts(model: Any, features: Features) -> None:
    last = [Query(query.turns[-1:]) for query in CONVERSATIONS]
    found = dense(query_features(features, model, CONVERSATIONS, 0.0))
    np.testing.assert_array_equal(found, dense(query_features(features, model, last, 0.5)))


def test_a_single_turn_is_exactly_its_features(model: Any, features: Features) -> None:
    # Beside others, and alone: two ways through the code.
    together = dense(query_features(features, model, [Query((A,)), Query((B,)), Query((A,))], 0.5))
    np.testing.assert_array_equal(together, dense(features.extract(model, [A, B]))[[0, 1, 0]])
    apart = dense(query_features(features, model, [Query((A,)), Query((B,))], 0.5))
    np.testing.assert_array_equal(apart, dense(features.extract(model, [A, B])))


@pytest.mark.parametrize("history", [0.1, 0.5, 0.9])
def test_the_last_turn_weighs_most(model: Any, features: Features, history: float) -> None:
    asked = [Query(turns) for turns in ((A,), (B,), (A, B))]
    first, last, both = dense(query_features(features, model, asked, history))
    assert np.linalg.norm(both - last) < np.linalg.norm(both - first)


def test_the_same_said_again_is_the_same(model: Any, features: Features) -> None:
    once, twice = dense(query_features(features, model, [Query((A,)), Query((A, A))], 0.5))
    np.testing.assert_allclose(once, twice, rtol=1e-6)


def test_a_turn_is_extracted_once_however_often_it_is_said(model: Any, features: Features) -> None:
    seen: list[tuple[int, int]] = []
    query_features(features, model, CONVERSATIONS, 0.5, lambda *now: seen.append(now))
    assert seen[-1] == (4, 4)
    query_features(features, model, CONVERSATIONS[:4], 0.0, lambda *now: seen.append(now))
    assert seen[-1] == (2, 2)


def test_no_queries_are_no_rows(model: Any, features: Features) -> None:
    width = features.extract(model, [A]).shape[1]
    assert query_features(features, model, [], 0.5).shape == (0, width)
