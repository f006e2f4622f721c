"""Continuous batching changes no answer: each request equals its own dense model, alone."""

from __future__ import annotations

import random

import pytest
import torch

from compress.compose import factor_weights
from serve.engine import Engine
from serve.mixture import MixtureModel
from serve.request import GenerationRequest, SamplingParams, Target
from serve.settings import EngineSettings
from tests import tiny

# Batch shape changes rounding: a greedy choice may differ only where the best two are this close.
NEAR_TIE = 1e-4


def engine_of(zoo, attention="sdpa", **settings):
    mixture = MixtureModel.load(zoo.bundle, dtype=torch.float32)
    mixture.model.set_attn_implementation(attention)
    settings = EngineSettings(max_model_len=128, threads=1, **settings)
    return Engine(mixture, tiny.tokenizer(), settings, name="tiny", scalings=zoo.bundle.scalings).start()


def request(prompt, mixture, tokens, **params):
    params = SamplingParams(max_tokens=tokens, ignore_eos=True, **params)
    return GenerationRequest(prompt, params, Target("mixture", mixture=mixture))


def first_difference(reference, prompt, tokens):
    """None if ``tokens`` are the reference's greedy ones, else the logit gap where they part."""
    ids = torch.tensor([prompt + list(tokens)])
    with torch.no_grad():
        logits = reference(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    for step, token in zip(logits, tokens, strict=True):
        best = step.topk(2)
        if int(best.indices[0]) != token:
            return float(best.values[0] - best.values[1])
    return None


@pytest.mark.parametrize("composition", ["auto", "factored", "composed"])
@pytest.mark.parametrize(
    ("kind", "family"), [("full", f) for f in tiny.FAMILIES] + [("adapter", "llama"), ("adapter", "gpt2")]
)
def test_mixed_continuous_batch_is_exact(zoo, kind, family, composition):
    z = zoo(kind, family)
    chooser = random.Random(f"{kind} {family}")
    mixtures = [{}, {"t0": 1.0}, {"t1": 1.0}, {"t0": 0.5, "t2": 0.25}, {"t1": 1.25, "t2": -0.25}]
    requests = [
        request(tiny.prompt(i, chooser.randint(1, 30)), mixtures[i % 5], chooser.randint(1, 14))
        for i in range(13)
    ]
    engine = engine_of(z, slots=4, composition=composition)
    try:
        answers = engine.generate(requests)
    finally:
        engine.stop()
    ties = 0
    for asked, answer in zip(requests, answers, strict=True):
        assert len(answer.token_ids) == asked.params.max_tokens
        gap = first_difference(z.reference(asked.target.mixture), asked.prompt, answer.token_ids)
        assert gap is None or gap < NEAR_TIE
        ties += gap is not None
    assert ties <= 1
    assert (engine.planner.passes["composed"] == 0) == (composition == "factored")


def test_attention_that_adds_its_mask_is_exact_too(zoo):
    z = zoo("full", "llama")
    engine = engine_of(z, attention="eager", slots=3)
    requests = [request(tiny.prompt(i, 3 + 5 * i), {f"t{i % 3}": 1.0}, 8) for i in range(5)]
    try:
        assert engine._additive
        answers = engine.generate(requests)
    finally:
        engine.stop()
    for asked, answer in zip(requests, answers, strict=True):
        gap = first_difference(z.reference(asked.target.mixture), asked.prompt, answer.token_ids)
        assert gap is None or gap < NEAR_TIE


def test_a_wrong_mixture_would_be_noticed(zoo):
    z = zoo("full", "llama")
    engine = engine_of(z)
    prompt = tiny.prompt(3, 12)
    try:
        (answer,) = engine.generate([request(prompt, {"t1": 1.0}, 12)])
    finally:
        engine.stop()
    gap = first_difference(z.reference({"t0": 1.0}), prompt, answer.token_ids)
    assert gap is not None and gap > 100 * NEAR_TIE


def test_joining_a_running_batch_changes_nobody(zoo):
    """Requests that join and leave while one long request runs; the long one is as if alone."""
    z = zoo("full", "qwen2")
    engine = engine_of(z, slots=3)
    long = request(tiny.prompt(1, 20), {"t0": 1.0}, 60)
    try:
        (alone,) = engine.generate([long])
        short = [request(tiny.prompt(i, 3 + i), {"t1": 1.0}, 1 + i % 4) for i in range(9)]
        together = engine.generate([short[0], long, *short[1:]])[1]
    finally:
        engine.stop()
    assert together.token_ids == alone.token_ids


def test_snapped_mixture_is_what_is_returned_and_served(zoo):
    z = zoo("full", "llama")
    engine = engine_of(z)
    try:
        (answer,) = engine.generate([request(tiny.prompt(1, 5), {"t0": 0.501, "t1": 0.001}, 4)])
    finally:
        engine.stop()
    assert answer.routing.mixture == {"t0": 0.5}
    assert first_difference(z.reference({"t0": 0.5}), tiny.prompt(1, 5), answer.token_ids) is None


def test_static_is_the_shared_base(zoo):
    z = zoo("adapter", "llama")
    engine = engine_of(z)
    prompt = tiny.prompt(8, 10)
    params = SamplingParams(max_tokens=8, ignore_eos=True)
    try:
        (answer,) = engine.generate([GenerationRequest(prompt, params, Target("static"))])
    finally:
        engine.stop()
    assert first_difference(z.reference({}), prompt, answer.token_ids) is None
    assert engine.shared == tuple(factor_weights({}, z.bundle.tasks, z.bundle.scalings))


def test_seeded_sampling_does_not_depend_on_the_batch(zoo):
    z = zoo("full", "llama")
    engine = engine_of(z, slots=4)
    sampled = request(tiny.prompt(2, 9), {"t0": 1.0}, 16, temperature=1.0, top_p=0.95, seed=7)
    other = request(tiny.prompt(2, 9), {"t0": 1.0}, 16, temperature=1.0, top_p=0.95, seed=8)
    greedy = [request(tiny.prompt(i, 5), {"t1": 1.0}, 20) for i in range(3)]
    try:
        (alone,) = engine.generate([sampled])
        crowd = engine.generate([greedy[0], sampled, other, *greedy[1:]])
    finally:
        engine.stop()
    assert crowd[1].token_ids == alone.token_ids
    assert crowd[2].token_ids != alone.token_ids
