"""Log-probabilities of prompts equal those of each request's own dense model, computed in float64."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from serve import scheduler
from serve.job import EngineError
from serve.logprobs import ROWS, logprobs
from serve.request import GenerationRequest, SamplingParams, Target
from tests import tiny
from tests.serve.packed import engine_of

# Log-probabilities of float32 passes, seen to differ from float64 by up to 1e-5.
NEAR = 1e-4
MIXTURES = [{}, {"t0": 1.0}, {"t1": 1.0}, {"t0": 0.5, "t2": 0.25}, {"t1": 1.25, "t2": -0.25}]


def request(prompt, mixture, tokens=0, scored=3, **params):
    params = SamplingParams(tokens, ignore_eos=True, prompt_logprobs=scored, **params)
    return GenerationRequest(prompt, params, Target("mixture", mixture=mixture))


def check(z, asked, answer):
    """The prompt's tokens, their log-probabilities and the most likely ones are the reference's."""
    with torch.no_grad():
        logits = z.reference(asked.target.mixture)(input_ids=torch.tensor([asked.prompt])).logits[0, :-1]
    every = logits.double().log_softmax(-1)
    found = answer.prompt_logprobs
    assert [one.token_id for one in found] == asked.prompt[1:]
    for row, one in zip(every, found, strict=True):
        assert one.logprob == pytest.approx(float(row[one.token_id]), abs=NEAR)
        best = row.topk(asked.params.prompt_logprobs).values.tolist()
        assert [value for _, value in one.top] == pytest.approx(best, abs=NEAR)
        assert all(value == pytest.approx(float(row[token]), abs=NEAR) for token, value in one.top)


@pytest.mark.parametrize(
    ("kind", "family", "composition", "static"),
    [("full", family, "auto", False) for family in tiny.FAMILIES]
    + [("adapter", "gpt2", c, False) for c in ("sliced", "stacked", "grouped", "composed")]
    + [("full", "gemma", "stacked", False), ("full", "qwen2", "auto", True)],
)
def test_chunks_in_mixed_batches_are_exact(zoo, monkeypatch, kind, family, composition, static):
    """Scored prompts in many chunks, beside prompts and answers of other mixtures."""
    # So few that a step cuts scored prompts shorter than others.
    monkeypatch.setattr(scheduler, "MOST_SCORED", 7)
    z = zoo(kind, family)
    lengths = random.Random(family)
    scored = [
        request(tiny.prompt(i, lengths.randint(1, 40)), MIXTURES[i % 5], i % 3, i % 4, logprobs=1)
        for i in range(10)
    ]
    plain = [request(tiny.prompt(50 + i, 20), MIXTURES[i], 12, None) for i in range(5)]
    engine = engine_of(z, slots=5, step_tokens=16, composition=composition, static_shapes=static)
    try:
        answers = engine.generate([one for pair in zip(scored, plain * 2, strict=True) for one in pair])
        alone = [engine.generate([one])[0] for one in plain]
    finally:
        engine.stop()
    for asked, answer in zip(scored, answers[::2], strict=True):
        check(z, asked, answer)
        assert len(answer.token_ids) == len(answer.logprobs) == asked.params.max_tokens
    for answer, own in zip(answers[1::2], alone * 2, strict=True):
        assert answer.prompt_logprobs == () and answer.token_ids == own.token_ids


def test_another_mixture_would_be_noticed(zoo):
    z = zoo("full", "llama")
    engine = engine_of(z)
    asked = request(tiny.prompt(3, 12), {"t1": 1.0})
    try:
        (answer,) = engine.generate([asked])
    finally:
        engine.stop()
    with pytest.raises(AssertionError):
        check(z, request(asked.prompt, {"t0": 1.0}), answer)


def test_remembered_prefixes_do_not_shorten_what_is_scored(zoo):
    z = zoo("adapter", "llama")
    engine = engine_of(z)
    prompt = tiny.prompt(9, 80)
    try:
        (plain,) = engine.generate([request(prompt, {"t0": 1.0}, 2, None)])
        (answer,) = engine.generate([request(prompt, {"t0": 1.0})])
        (again,) = engine.generate([request(prompt, {"t0": 1.0}, 2, None)])
    finally:
        engine.stop()
    check(z, request(prompt, {"t0": 1.0}), answer)
    assert [one.cached_tokens for one in (plain, answer, again)] == [0, 0, 64]
    assert again.token_ids == plain.token_ids


def test_a_scored_prompt_is_remembered_for_others(zoo):
    engine = engine_of(zoo("adapter", "llama"))
    prompt = tiny.prompt(9, 40)
    try:
        engine.generate([request(prompt, {})])
        (answer,) = engine.generate([request(prompt, {}, 1, None)])
    finally:
        engine.stop()
    assert answer.cached_tokens == 32


@pytest.mark.parametrize("scored", [None, 0, 2])
def test_no_token_at_all_may_be_asked_for(zoo, scored):
    """Prompts may then fill the context; nothing is generated, and the row is free again."""
    engine = engine_of(zoo("adapter", "llama"), max_model_len=64, slots=1)
    try:
        prompts = tiny.prompt(1, 64), [5]
        whole, short = engine.generate([request(prompt, {}, 0, scored) for prompt in prompts])
        generated = engine.steps.generated
    finally:
        engine.stop()
    for answer in (whole, short):
        assert (answer.text, answer.token_ids, answer.finish_reason) == ("", (), "length")
    assert len(whole.prompt_logprobs) == (0 if scored is None else 63) and short.prompt_logprobs == ()
    assert all(len(one.top) == scored for one in whole.prompt_logprobs)
    assert generated == 0 and engine.scheduler.idle


def test_a_pass_that_fails_counts_no_token_twice(zoo, monkeypatch):
    z = zoo("adapter", "llama")
    engine = engine_of(z, step_tokens=8)
    forward = engine.mixture.model.forward

    def allergic(*args, input_ids, **kwargs):
        if 96 in input_ids:
            raise RuntimeError("96 is too much")
        return forward(*args, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(engine.mixture.model, "forward", allergic)
    asked = request(tiny.prompt(4, 30), {"t1": 1.0})
    with ThreadPoolExecutor(2) as pool:
        failed = pool.submit(engine.generate, [request([5, 96, 7] * 9, {"t0": 1.0})])
        (answer,) = pool.submit(engine.generate, [asked]).result()
        with pytest.raises(EngineError, match="this request"):
            failed.result()
    engine.stop()
    check(z, asked, answer)


def test_numbers_that_overflow_in_the_middle_end_their_own_request(zoo, monkeypatch):
    z = zoo("adapter", "llama")
    engine = engine_of(z, step_tokens=4)
    head = engine.mixture.model.get_output_embeddings()
    plain, poison = head.forward, {"at": 3}

    def poisoned(x):
        y = plain(x)
        poison["at"] -= 1
        return y.masked_fill(torch.ones_like(y, dtype=torch.bool), float("nan")) if poison["at"] == 0 else y

    monkeypatch.setattr(head, "forward", poisoned)
    asked = request(tiny.prompt(4, 60), {"t1": 1.0})
    try:
        with pytest.raises(EngineError, match="overflowed"):
            engine.generate([asked])
        (answer,) = engine.generate([asked])
    finally:
        engine.stop()
    check(z, asked, answer)


def test_an_echoed_answer_begins_with_its_space(zoo, monkeypatch):
    """The tokenizers of Llama drop it at the beginning of a text, which an echoed answer is not."""
    engine = engine_of(zoo("adapter", "llama"))
    raw = Tokenizer(models.BPE({f"▁w{i}": i for i in range(97)}, []))
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    monkeypatch.setattr(engine, "tokenizer", PreTrainedTokenizerFast(tokenizer_object=raw))
    asked = request([5, 6, 7], {}, 2, None)
    try:
        alone, joined = engine.generate([asked, replace(asked, joined=True)])
    finally:
        engine.stop()
    assert joined.token_ids == alone.token_ids
    assert joined.text == " " + alone.text and alone.text.startswith("w")


def test_every_row_gets_its_own_number_of_most_likely_tokens():
    logits = torch.randn(2 * ROWS + 3, 11, generator=torch.Generator().manual_seed(0))
    tokens = [i % 11 for i in range(len(logits))]
    tops = [i % 14 for i in range(len(logits))]
    found = logprobs(logits, tokens, tops)
    every = logits.double().log_softmax(-1)
    for row, one, token, top in zip(every, found, tokens, tops, strict=True):
        assert one.token_id == token and one.logprob == pytest.approx(float(row[token]), abs=1e-5)
        assert [i for i, _ in one.top] == row.argsort(descending=True)[:top].tolist()
    assert logprobs(logits[:0], [], []) == []
