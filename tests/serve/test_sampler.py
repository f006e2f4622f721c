"""Sampling against the distribution it should follow."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from serve.request import GenerationRequest, SamplingParams, Target
from serve.sampler import Row, broken, generator, sample


def row(prompt=(), tokens=(), **values):
    params = SamplingParams(max_tokens=1, **values)
    return Row(params, generator(params), prompt, tokens)


def draw(logits, count, **values):
    asked = row(**values)
    return [sample(logits[None], [asked])[0].token for _ in range(count)]


def tokens(logits, rows):
    return [picked.token for picked in sample(logits, rows)]


def test_frequencies_follow_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])
    drawn = draw(logits, 4000, temperature=0.7, seed=1)
    expected = torch.softmax(logits.double() / 0.7, 0) * len(drawn)
    observed = torch.bincount(torch.tensor(drawn), minlength=5)
    assert chisquare(observed.numpy(), expected.numpy()).pvalue > 0.001


def test_truncated_frequencies_are_those_of_the_rest():
    logits = torch.log(torch.tensor([0.05, 0.3, 0.1, 0.15, 0.4]))
    drawn = draw(logits, 4000, temperature=1.0, top_k=4, top_p=0.85, min_p=0.3, seed=1)
    observed = torch.bincount(torch.tensor(drawn), minlength=5)
    assert observed[0] == observed[2] == 0
    expected = torch.tensor([0.3, 0.15, 0.4]) / 0.85 * len(drawn)
    assert chisquare(observed[[1, 3, 4]].numpy(), expected.numpy(), sum_check=False).pvalue > 0.001


@pytest.mark.parametrize(("number", "token"), [(0.0, 1), (1.0 - 2.0**-24, 3)])
def test_the_ends_of_the_unit_interval_draw_no_excluded_token(monkeypatch, number, token):
    monkeypatch.setattr("serve.sampler.torch.rand", lambda *_, **__: torch.tensor(number))
    assert draw(torch.tensor([0.0, 3.0, 4.0, 3.0, 0.0]), 1, temperature=1.0, top_k=3) == [token]


SAMPLED = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.3, 1.0, 2.0]),
        "top_k": st.integers(0, 50),
        "top_p": st.floats(0.0, 1.0),
        "min_p": st.floats(0.0, 1.0),
        "repetition_penalty": st.floats(0.5, 2.0),
        "presence_penalty": st.floats(-2.0, 2.0),
        "frequency_penalty": st.floats(-2.0, 2.0),
        "logit_bias": st.dictionaries(st.integers(0, 45), st.floats(-100.0, 100.0), max_size=3),
        "logprobs": st.integers(0, 50),
    },
)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**31), asked=st.lists(SAMPLED, min_size=1, max_size=6), steps=st.integers(1, 3))
def test_a_seeded_row_does_not_depend_on_its_neighbours(seed, asked, steps):
    # Rounded, so that there are ties; ids beyond 39 are unknown to these logits.
    source = torch.Generator().manual_seed(seed)
    logits = [torch.randn(len(asked), 40, generator=source).mul(4).round() / 4 for _ in range(steps)]

    def run(numbers):
        rows = [row(prompt=[1, 2, 44], tokens=[], seed=seed + i, **asked[i]) for i in numbers]
        seen = []
        for step in logits:
            picked = sample(step[numbers], rows)
            for one, new in zip(rows, picked, strict=True):
                one.tokens.append(new.token)
            seen.append([(p.token, p.logprob and p.logprob.logprob) for p in picked])
        return list(zip(*seen, strict=True))

    assert run(list(range(len(asked)))) == [run([i])[0] for i in range(len(asked))]


def test_logits_are_left_as_they_are():
    logits = torch.randn(3, 20)
    before = logits.clone()
    everything = {"top_k": 3, "top_p": 0.5, "min_p": 0.1, "logit_bias": {1: 2.0}, "presence_penalty": 1.0}
    sample(logits, [row(tokens=[2], **everything, temperature=t) for t in (0.0, 1.0, 2.0)])
    assert torch.equal(logits, before)


@pytest.mark.parametrize("temperature", [0.0, 1e-40, 1e-6])
def test_as_good_as_zero_is_greedy_beside_others(temperature):
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 0.0, 0.0]])
    asked = [row(temperature=temperature), row(temperature=1.0, top_p=0.1, seed=1)]
    assert tokens(logits, asked) == [1, 0]


def test_the_smallest_sampled_temperature_does_not_overflow():
    logits = torch.tensor([[1e34, 2e34, -math.inf]])
    assert draw(logits[0], 20, temperature=1e-5, seed=1) == [1] * 20


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_type_will_do(dtype):
    logits = torch.tensor([[0.0, 3.0, 1.0]] * 3, dtype=dtype)
    rows = [row(), row(logit_bias={2: 2.5}), row(temperature=1.0, top_k=1, seed=1)]
    assert tokens(logits, rows) == [1, 2, 1]


def test_bias_and_penalties_act_on_greedy_rows_and_on_theirs_only():
    logits = torch.tensor([[3.0, 2.0, 1.0]] * 4)
    rows = [
        row(),
        row(logit_bias={2: 3.0}),
        row(prompt=[0], repetition_penalty=2.0),
        row(prompt=[0], tokens=[1, 0], presence_penalty=1.5),
    ]
    assert tokens(logits, rows) == [0, 2, 1, 0]


def test_generated_tokens_are_read_anew_at_every_step():
    logits = torch.tensor([[3.0, 2.5, 2.2]])
    written = []
    asked = row(tokens=written, frequency_penalty=0.6)
    for _ in range(4):
        written.append(sample(logits, [asked])[0].token)
    assert written == [0, 1, 0, 2]


def test_broken_rows_are_named_and_break_no_neighbour():
    nan, inf = math.nan, math.inf
    logits = torch.tensor(
        [[nan] * 3, [5.0, 0.0, -inf], [0.0, nan, 1.0], [-inf] * 3, [0.0, inf, 1.0], [0.0, 9.0, 1.0]]
    )
    assert broken(logits) == [True, False, True, True, True, False]
    for values in (
        {"temperature": 1.0, "top_p": 0.5, "top_k": 2, "min_p": 0.1},
        {"presence_penalty": 1.0},
        {},
    ):
        asked = [row(seed=1, tokens=[2], logprobs=2, **values) for _ in logits]
        drawn = tokens(logits, asked)
        assert (drawn[1], drawn[5]) == (0, 1)
        assert all(0 <= token < 3 for token in drawn)


def test_logprobs_are_those_of_the_models_own_logits():
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(3))
    rows = [
        row(logprobs=3),
        row(),
        row(logprobs=0, logit_bias={7: 100.0}, temperature=0.5, top_k=2, seed=1),
        row(logprobs=50),
    ]
    picked = sample(logits, rows)
    expected = logits.double().log_softmax(-1)
    assert picked[1].logprob is None
    assert picked[2].token == 7
    for index, count in ((0, 3), (2, 0), (3, 30)):
        found = picked[index].logprob
        assert found.token_id == picked[index].token
        assert found.logprob == pytest.approx(expected[index, found.token_id].item(), abs=1e-5)
        best = expected[index].sort(descending=True)
        assert [token for token, _ in found.top] == best.indices[:count].tolist()
        assert [value for _, value in found.top] == pytest.approx(best.values[:count].tolist(), abs=1e-5)


def test_choices_have_random_numbers_of_their_own_and_the_first_keeps_the_seed():
    request = GenerationRequest([1], SamplingParams(4, temperature=1.0, seed=11), Target("static"))
    seeds = [choice.params.seed for choice in request.choices(128)]
    assert seeds[0] == 11 and len({seed % 2**32 for seed in seeds}) == 128
    assert all(-(2**63) <= seed < 2**63 for seed in seeds)
    assert seeds == [choice.params.seed for choice in request.choices(128)]
    other = GenerationRequest([1], SamplingParams(4, temperature=1.0, seed=12), Target("static"))
    assert not set(seeds) & {choice.params.seed for choice in other.choices(128)}


def test_choices_without_a_seed_differ():
    request = GenerationRequest([1], SamplingParams(4, temperature=1.0), Target("static"))
    rows = [Row(c.params, generator(c.params), c.prompt, []) for c in request.choices(8)]
    assert len(set(tokens(torch.zeros(8, 10_000), rows))) > 1
