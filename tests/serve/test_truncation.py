"""What may be drawn, against transformers' warpers applied row by row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from serve import truncation
from serve.request import SamplingParams
from serve.truncation import truncate

NONE = torch.empty(1, 0, dtype=torch.long)
ROW = st.fixed_dictionaries(
    {
        "temperature": st.floats(0.2, 3.0),
        "top_k": st.integers(0, 45),
        "top_p": st.one_of(st.just(1.0), st.floats(0.01, 0.99)),
        "min_p": st.one_of(st.just(0.0), st.floats(0.01, 1.0)),
    }
)


def warped(logits, temperature, top_k, top_p, min_p):
    """transformers' answer for one row, in float64; None where rounding decides who stays."""
    scores = TemperatureLogitsWarper(temperature)(NONE, logits[None].double())
    if top_k:
        scores = TopKLogitsWarper(top_k)(NONE, scores)
    if top_p < 1:
        cumulated = scores.softmax(-1).sort(descending=True).values.cumsum(-1)
        if ((cumulated - top_p).abs() < 1e-5).any():
            return None
        scores = TopPLogitsWarper(top_p)(NONE, scores)
    if min_p:
        shares = scores.softmax(-1) / scores.softmax(-1).max()
        if ((shares - min_p).abs() < 1e-5).any() and min_p < 1:
            return None
        scores = MinPLogitsWarper(min_p)(NONE, scores)
    return scores[0]


def cut(logits, rows):
    scaled = logits / torch.tensor([row["temperature"] for row in rows])[:, None]
    truncate(scaled, [SamplingParams(1, **row) for row in rows])
    return scaled


@pytest.mark.parametrize("candidates", [4, 1024], ids=["sorted", "candidates"])
@settings(deadline=None, max_examples=150)
@given(seed=st.integers(0, 2**31), rows=st.lists(ROW, min_size=1, max_size=5))
def test_the_same_tokens_stay_with_the_same_probabilities(candidates, seed, rows):
    logits = torch.randn(len(rows), 40, generator=torch.Generator().manual_seed(seed)) * 3
    expected = [warped(one, **row) for one, row in zip(logits, rows, strict=True)]
    assume(all(one is not None for one in expected))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(truncation, "CANDIDATES", candidates)
        found = cut(logits, rows)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.isfinite(), other.isfinite())
        torch.testing.assert_close(one.softmax(-1).double(), other.softmax(-1), atol=1e-5, rtol=1e-4)


def stays(logits, **values):
    logits = torch.tensor([logits])
    truncate(logits, [SamplingParams(1, **values)])
    return logits[0].isfinite().nonzero()[:, 0].tolist()


HALVES = [0.0, 1.0, 1.0, -1.0, 1.0]


def test_top_k_keeps_what_is_as_likely_as_the_last_of_them():
    assert stays(HALVES, top_k=2) == [1, 2, 4]
    assert stays(HALVES, top_k=4) == [0, 1, 2, 4]


@pytest.mark.parametrize("top_k", [0, 5, 6, 10**30])
def test_a_top_k_that_cuts_nothing_off(top_k):
    assert stays(HALVES, top_k=top_k) == [0, 1, 2, 3, 4]


def test_nucleus_is_the_smallest_set_that_reaches_top_p():
    logits = torch.log(torch.tensor([0.3, 0.05, 0.5, 0.15])).tolist()
    assert stays(logits, top_p=0.0) == stays(logits, top_p=0.49) == [2]
    assert stays(logits, top_p=0.51) == stays(logits, top_p=0.79) == [0, 2]
    assert stays(logits, top_p=0.81) == [0, 2, 3]
    assert stays([1.0, 0.0, 1.0, 1.0], top_p=0.5) == [0, 2, 3], "equally likely tokens stay together"


def test_a_nucleus_of_more_tokens_than_candidates_is_whole():
    size = truncation.CANDIDATES * 2
    logits = torch.linspace(0.0, 1e-3, size).repeat(2, 1)
    logits[1, 7] = 20.0
    truncate(logits, [SamplingParams(1, top_p=0.75)] * 2)
    wide, narrow = logits.isfinite().sum(-1).tolist()
    assert abs(wide - 0.75 * size) < 3 and narrow == 1


def test_min_p_of_one_keeps_the_likeliest():
    assert stays(HALVES, min_p=1.0) == [1, 2, 4]
    assert stays(HALVES, min_p=0.3) == [0, 1, 2, 4]
