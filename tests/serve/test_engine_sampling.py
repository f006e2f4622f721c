"""What a request asks of the sampler reaches it through the engine, and harms no neighbour."""

from __future__ import annotations

import asyncio
import threading

import pytest

from serve.job import EngineError
from serve.request import GenerationRequest, SamplingParams, Target
from tests import tiny
from tests.serve.packed import engine_of


@pytest.fixture
def engine(zoo):
    made = engine_of(zoo("adapter", "llama"), max_model_len=64, slots=3)
    yield made
    made.stop()


def request(tokens=8, **params):
    return GenerationRequest(
        tiny.prompt(1, 8), SamplingParams(tokens, ignore_eos=True, **params), Target("static")
    )


def events(engine, *requests):
    async def one(asked):
        try:
            return [event async for event in engine.stream(asked)]
        except EngineError as error:
            return error

    async def every():
        return await asyncio.gather(*map(one, requests))

    return asyncio.run(every())


def test_penalties_see_the_tokens_of_the_answer(engine):
    plain, varied = engine.generate([request(20), request(20, presence_penalty=1000.0)])
    assert len(set(varied.token_ids)) == 20 > len(set(plain.token_ids))


def test_the_repetition_penalty_sees_the_prompt(engine):
    asked = request(5, repetition_penalty=1e6, logit_bias={t: 50.0 for t in range(97)})
    answer = engine.generate([asked])[0]
    assert not set(answer.token_ids) & set(asked.prompt)


def test_each_event_carries_the_log_probability_of_its_token(engine):
    found, other = events(engine, request(logprobs=2), request())
    for event in found:
        (token,), (logprob,) = event.token_ids, event.logprobs
        assert logprob.token_id == token == logprob.top[0][0]
        assert logprob.logprob == logprob.top[0][1] >= logprob.top[1][1]
    assert all(event.logprobs == () for event in other)


def test_choices_of_a_seeded_request_repeat_beside_any_neighbours(engine):
    asked = request(temperature=1.0, seed=3, top_k=20, min_p=0.01).choices(3)
    together = [answer.token_ids for answer in engine.generate(asked)]
    assert together == [engine.generate([one])[0].token_ids for one in asked]
    assert len(set(together)) == 3


def test_choices_prefill_their_prompt_once(engine):
    asked = GenerationRequest(
        tiny.prompt(1, 50), SamplingParams(4, temperature=1.0, seed=1), Target("static")
    )
    together = threading.Event()
    engine._put(together.wait)
    threading.Timer(0.2, together.set).start()
    answers = engine.generate(asked.choices(5))
    assert (engine.prefixes.hits, engine.prefixes.misses) == (4 * 32, 50 + 4 * 18)
    assert [a.token_ids for a in answers] == [engine.generate([o])[0].token_ids for o in asked.choices(5)]
