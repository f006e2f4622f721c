"""Continuous batching changes no answer: each request equals its own dense model, alone."""

from __future__ import annotations

import asyncio
import random

import pytest
import torch

from compress.compose import factor_weights
from serve.request import GenerationRequest, SamplingParams, Target
from tests import tiny
from tests.serve.packed import COSTS, engine_of

# Batch shape changes rounding: a greedy choice may differ only where the best two are this close.
NEAR_TIE = 1e-4


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


@pytest.mark.parametrize(
    ("composition", "static"),
    [(c, False) for c in ("auto", "sliced", "stacked", "grouped", "composed")] + [("auto", True)],
)
@pytest.mark.parametrize(
    ("kind", "family"), [("full", f) for f in tiny.FAMILIES] + [("adapter", "llama"), ("adapter", "gpt2")]
)
def test_mixed_continuous_batch_is_exact(zoo, kind, family, composition, static):
    z = zoo(kind, family)
    chooser = random.Random(f"{kind} {family}")
    mixtures = [{}, {"t0": 1.0}, {"t1": 1.0}, {"t0": 0.5, "t2": 0.25}, {"t1": 1.25, "t2": -0.25}]
    if kind == "adapter":
        mixtures[3:] = [{"base": 1.0}, {"t0": 0.5, "base": 0.25}]
    requests = [
        request(tiny.prompt(i, chooser.randint(1, 30)), mixtures[i % 5], chooser.randint(1, 14))
        for i in range(13)
    ]
    # Steps so short that most prompts take several, beside answers that run.
    engine = engine_of(z, slots=4, step_tokens=16, composition=composition, static_shapes=static)
    try:
        answers = engine.generate(requests)
    finally:
        engine.stop()
    check_all(z, requests, answers)
    if composition not in ("auto", "composed"):
        assert engine.planner.passes["composed"] == 0


def check_all(z, requests, answers):
    """Every answer is its own dense model's, but for one near tie."""
    ties = 0
    for asked, answer in zip(requests, answers, strict=True):
        assert len(answer.token_ids) == asked.params.max_tokens
        gap = first_difference(z.reference(asked.target.mixture), asked.prompt, answer.token_ids)
        assert gap is None or gap < NEAR_TIE
        ties += gap is not None
    assert ties <= 1


def test_cancelled_neighbours_and_deadlines_change_nobody(zoo):
    """Rows move when others leave; those that stay go on as if alone."""
    z = zoo("full", "llama")
    engine = engine_of(z, slots=5, step_tokens=8)
    stay = [request(tiny.prompt(i, 5 + 7 * i), {f"t{i}": 1.0}, 30) for i in range(3)]

    async def quitter(seed, events):
        stream = engine.stream(request(tiny.prompt(seed, 20), {"t1": 0.5}, 60))
        for _ in range(events):
            await anext(stream)
        await stream.aclose()

    async def answer(asked):
        return [token async for event in engine.stream(asked) for token in event.token_ids]

    async def everybody():
        quitters = [quitter(50 + i, 1 + i) for i in range(6)]
        found = await asyncio.gather(*quitters[:3], *map(answer, stay), *quitters[3:])
        return found[3:6]

    try:
        tokens = asyncio.run(everybody())
    finally:
        engine.stop()
    for asked, found in zip(stay, tokens, strict=True):
        gap = first_difference(z.reference(asked.target.mixture), asked.prompt, found)
        assert gap is None or gap < NEAR_TIE


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_equal_prompts_under_different_mixtures_never_share_keys(zoo, kind):
    """A prefix is reused under its own mixture, and only there; answers are the dense models'."""
    z = zoo(kind, "llama")
    engine = engine_of(z, slots=3)
    prompt = tiny.prompt(9, 80)
    mixtures = [{"t0": 1.0}, {"t1": 1.0}, {}, {"t0": 0.5, "t1": 0.5}, {"t0": 1.0}, {"t1": 1.0}]
    try:
        for number, mixture in enumerate(mixtures):
            (answer,) = engine.generate([request(prompt, mixture, 8)])
            gap = first_difference(z.reference(mixture), prompt, answer.token_ids)
            assert gap is None or gap < NEAR_TIE
            # 64 of 80 tokens are whole blocks; only the two mixtures seen before find theirs.
            assert engine.prefixes.hits == 64 * max(0, number - 3)
    finally:
        engine.stop()


def test_a_second_turn_reuses_the_first_and_its_answer(zoo):
    z = zoo("full", "llama")
    engine = engine_of(z)
    first = tiny.prompt(4, 30)
    try:
        (answer,) = engine.generate([request(first, {"t1": 1.0}, 40)])
        second = [*first, *answer.token_ids, *tiny.prompt(5, 10)]
        (again,) = engine.generate([request(second, {"t1": 1.0}, 8)])
        assert engine.prefixes.hits == 64, "30 tokens of the prompt and 34 of the answer"
        gap = first_difference(z.reference({"t1": 1.0}), second, again.token_ids)
        assert gap is None or gap < NEAR_TIE
        rebuilt = engine_of(z)
        rebuilt.chooser.generation = 2
        rebuilt.prefixes._blocks = engine.prefixes._blocks
        rebuilt.generate([request(second, {"t1": 1.0}, 8)])
        rebuilt.stop()
        assert rebuilt.prefixes.hits == 0, "another generation of the bundle is another model"
    finally:
        engine.stop()


def test_half_static_half_dynamic_may_be_two_passes(zoo):
    """A/B traffic: whatever the costs say, every arm's answer is its own model's."""
    z = zoo("adapter", "llama")
    cheap = COSTS.model_copy(update={"base": {1: 1e-9, 64: 1e-9}})
    engine = engine_of(z, slots=8, costs=cheap)
    requests = [request(tiny.prompt(i, 9), {"t1": 1.0} if i % 2 else {}, 12) for i in range(8)]
    try:
        answers = engine.generate(requests)
    finally:
        engine.stop()
    check_all(z, requests, answers)
    assert engine.planner.passes["composed"] > 5 and engine.planner.passes["factored"] > 5


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
    assert engine.chooser.shared == tuple(factor_weights({}, z.bundle.tasks, z.bundle.scalings))


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
