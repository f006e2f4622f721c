"""Sampling against the distribution it should follow."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from serve.request import SamplingParams
from serve.sampler import generator, sample


def params(**values):
    return SamplingParams(max_tokens=1, **values)


def draw(logits, asked, count):
    source = generator(asked)
    return [sample(logits[None], [asked], [source])[0] for _ in range(count)]


def test_frequencies_follow_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])
    drawn = draw(logits, params(temperature=0.7, seed=1), 4000)
    expected = torch.softmax(logits.double() / 0.7, 0) * len(drawn)
    observed = torch.bincount(torch.tensor(drawn), minlength=5)
    assert chisquare(observed.numpy(), expected.numpy()).pvalue > 0.001


def test_nucleus_is_the_smallest_set_that_reaches_top_p():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    assert set(draw(logits, params(temperature=1.0, top_p=0.79, seed=2), 300)) == {0, 1}
    assert set(draw(logits, params(temperature=1.0, top_p=0.81, seed=2), 300)) == {0, 1, 2}
    assert set(draw(logits, params(temperature=1.0, top_p=0.0, seed=2), 50)) == {0}


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 5))
def test_a_seeded_row_does_not_depend_on_its_neighbours(seed, rows):
    logits = torch.randn(rows, 40, generator=torch.Generator().manual_seed(seed))
    asked = [params(temperature=1.0, top_p=0.9, seed=seed + i) for i in range(rows)]
    together = sample(logits, asked, [generator(p) for p in asked])
    alone = [sample(logits[i : i + 1], [p], [generator(p)])[0] for i, p in enumerate(asked)]
    assert together == alone


@pytest.mark.parametrize("temperature", [0.0, 1e-40, 1e-6])
def test_as_good_as_zero_is_greedy_beside_others(temperature):
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 0.0, 0.0]])
    asked = [params(temperature=temperature), params(temperature=1.0, top_p=0.1, seed=1)]
    assert sample(logits, asked, [generator(p) for p in asked]) == [1, 0]


def test_a_broken_row_does_not_break_its_neighbour():
    logits = torch.tensor([[float("nan")] * 3, [5.0, 0.0, 0.0]])
    asked = [params(temperature=1.0, seed=1), params(temperature=0.0)]
    tokens = sample(logits, asked, [generator(p) for p in asked])
    assert tokens[1] == 0 and 0 <= tokens[0] < 3
