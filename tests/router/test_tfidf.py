"""Hashed n-grams: what scikit-learn finds with a vocabulary, without one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from router.features.tfidf import BATCH, BUCKETS, CHARACTERS, TOKEN, TfidfFeatures
from router.query import Turn, clip

FEATURES = TfidfFeatures()
TEXTS = [
    "Sort the words: pear, apple, fig!!",
    "sort  the numbers: 3 1 2",
    "def f(x):\n    return x + x + x + x",
    "Übersetze ins Englische: der Hund",
    "(((",
    "日本語 の テキスト",
]


def extract(texts: list[str]) -> sparse.csr_matrix:
    return FEATURES.extract(None, [Turn(text, ()) for text in texts])


def test_likeness_equals_that_of_scikit_learns_vocabulary() -> None:
    texts = ["sort the words!!", "sort  the numbers: 3 1", "f(x) = x + x + x", "(((", "日本語 の テキスト"]
    found = extract(texts)
    common = {"use_idf": False, "sublinear_tf": True, "norm": "l2"}
    words = TfidfVectorizer(analyzer="word", ngram_range=(1, 2), token_pattern=TOKEN, **common)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **common)
    halves = [vectorizer.fit_transform(texts) for vectorizer in (words, characters)]
    # No two of these n-grams share a bucket.
    assert len(np.unique(found.indices)) == sum(half.shape[1] for half in halves)
    expected = sum((half @ half.T).toarray() for half in halves)
    np.testing.assert_allclose((found @ found.T).toarray(), expected, atol=1e-5)


def test_each_half_has_unit_length() -> None:
    found = extract(TEXTS)
    assert found.dtype == np.float32 and found.shape == (len(TEXTS), 2 * BUCKETS)
    for half in (found[:, :BUCKETS], found[:, BUCKETS:]):
        np.testing.assert_allclose(sparse.linalg.norm(half, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(("one", "other"), [("stop", "stop!!"), ("f x", "f(x)"), ("a b", "b a"), ("1", "2")])
def test_texts_that_differ_differ(one: str, other: str) -> None:
    first, second = extract([one, other])
    assert abs(first - second).max() > 0.1


def test_a_row_is_the_same_alone_and_in_any_batch() -> None:
    texts = [f"prompt {index} of many" for index in range(BATCH + 5)]
    together = extract(texts)
    assert together.shape[0] == len(texts)
    for index in (0, BATCH - 1, BATCH, BATCH + 4):
        assert abs(together[index] - extract([texts[index]])).max() == 0


def test_of_a_long_text_both_ends_count_and_the_middle_does_not() -> None:
    long = "begin here " + "x" * CHARACTERS + " y" * 45_000 + " end there"
    other = long.replace(" y", " q")
    first, second, both_ends = extract([long, other[:CHARACTERS] + long[CHARACTERS:], clip(long, CHARACTERS)])
    assert abs(first - second).max() == 0 and abs(first - both_ends).max() == 0
    assert abs(first - extract(["x" + long[1:]])).max() > 0
    assert abs(first - extract([long[:-1] + "x"])).max() > 0


def test_progress_ends_at_the_total_and_no_turns_are_no_rows() -> None:
    seen: list[tuple[int, int]] = []
    FEATURES.extract(None, [Turn("a", ())] * (BATCH + 1), lambda *now: seen.append(now))
    assert seen == [(BATCH, BATCH + 1), (BATCH + 1, BATCH + 1)]
    assert extract([]).shape == (0, 2 * BUCKETS)
