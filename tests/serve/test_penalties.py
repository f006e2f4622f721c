"""Bias and penalties, against transformers and against the formulas written out."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from serve.penalties import penalize, wanted
from serve.request import SamplingParams
from serve.sampler import Row

# Ids from 20 on are unknown to the logits of these tests.
IDS = st.lists(st.integers(0, 24), max_size=12)
ROW = st.fixed_dictionaries(
    {},
    optional={
        "repetition_penalty": st.floats(0.3, 3.0),
        "presence_penalty": st.floats(-2.0, 2.0),
        "frequency_penalty": st.floats(-2.0, 2.0),
        "logit_bias": st.dictionaries(st.integers(-2, 24), st.floats(-100.0, 100.0), max_size=4),
    },
)


def expected(logits, params, prompt, tokens):
    logits = logits.double()
    for token, bias in params.logit_bias.items():
        if 0 <= token < len(logits):
            logits[token] += bias
    # Older transformers index with every id; that others are passed over is our own promise.
    known = [token for token in (*prompt, *tokens) if 0 <= token < len(logits)]
    seen = torch.tensor([known], dtype=torch.long)
    logits = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)(seen, logits[None])[0]
    for token in range(len(logits)):
        count = tokens.count(token)
        logits[token] -= count * params.frequency_penalty + (count > 0) * params.presence_penalty
    return logits


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 2**31), rows=st.lists(st.tuples(ROW, IDS, IDS), min_size=1, max_size=5))
def test_rows_follow_the_formulas(seed, rows):
    logits = torch.randn(len(rows), 20, generator=torch.Generator().manual_seed(seed)) * 5
    asked = [(SamplingParams(1, **values), prompt, tokens) for values, prompt, tokens in rows]
    found = logits.clone()
    penalize(found, [Row(params, None, prompt, tokens) for params, prompt, tokens in asked])
    for index, one in enumerate(asked):
        torch.testing.assert_close(found[index].double(), expected(logits[index], *one), atol=1e-4, rtol=1e-5)
        if not wanted(one[0]):
            assert torch.equal(found[index], logits[index])


def test_an_excluded_token_stays_excluded():
    logits = torch.tensor([[-torch.inf, 1.0]])
    params = SamplingParams(
        1, repetition_penalty=0.5, presence_penalty=-2.0, frequency_penalty=-2.0, logit_bias={0: 100.0}
    )
    penalize(logits, [Row(params, None, [0], [0, 1])])
    assert logits[0].tolist() == [-torch.inf, 6.0]
