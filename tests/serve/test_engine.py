"""The engine around the mathematics: refusals, cancelling, stopping, failing."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from compress.errors import InputError
from serve.job import DeadlineError, EngineError
from serve.kvcache import context_length, position_bytes
from serve.request import GenerationRequest, SamplingParams, Target
from tests import tiny
from tests.serve.packed import engine_of


@pytest.fixture
def engine(zoo):
    made = engine_of(zoo("adapter", "llama"), max_model_len=64, slots=2)
    yield made
    made.stop()


def request(length=5, tokens=4, target=None, **params):
    params = SamplingParams(max_tokens=tokens, **{"ignore_eos": True, **params})
    return GenerationRequest(tiny.prompt(1, length), params, target or Target("static"))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (request(length=0), "prompt is empty"),
        (request(tokens=-3), "max_tokens must be at least 0"),
        (request(length=60, tokens=10), r"60 prompt tokens and max_tokens 10.*64 tokens; at most 4 can"),
        (request(length=70), r"70 prompt tokens.*at most 0 can"),
        (request(tokens=10**9), r"at most 59 can"),
        (GenerationRequest([1, 97], SamplingParams(4), Target("static")), "between 0 and 96"),
        (GenerationRequest([-1], SamplingParams(4), Target("static")), "between 0 and 96"),
        (request(target=Target("task", task="t9")), "unknown task 't9'; known: t0, t1, t2"),
        (request(target=Target("mixture", mixture={"x": 1.0})), "unknown task 'x'"),
        (request(target=Target("mixture", mixture={"t0": float("nan")})), "must be a number"),
        (request(target=Target("mixture", mixture={"t0": 1e300})), "must be a number between"),
        (request(target=Target("dynamic")), "has no router"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_sentence(engine, asked, sentence):
    with pytest.raises(InputError, match=sentence):
        engine.generate([asked])
    assert len(engine.generate([request()])[0].token_ids) == 4


def test_the_whole_context_can_be_used(engine):
    assert len(engine.generate([request(length=1, tokens=63)])[0].token_ids) == 63
    assert len(engine.generate([request(length=63, tokens=1)])[0].token_ids) == 1


def test_memory_grows_with_the_longest_request_and_keeps_what_runs(zoo):
    made = engine_of(zoo("adapter", "llama"), slots=2, prefix_memory=0)

    async def go():
        stream = made.stream(request(tokens=50))
        tokens = [token for _ in range(5) for token in (await anext(stream)).token_ids]
        small = made.steps.cache.nbytes
        together = await asyncio.to_thread(made.generate, [request(length=5, tokens=200)])
        tokens += [token async for event in stream for token in event.token_ids]
        return tokens, small, together[0].token_ids

    try:
        tokens, small, long = asyncio.run(go())
        assert tuple(tokens) == long[:50], "the running one went on where it was"
        assert made.steps.cache.nbytes > small
        again = made.steps.cache.nbytes
        made.generate([request(tokens=4)])
        assert made.steps.cache.nbytes == again
    finally:
        made.stop()


def test_keys_and_values_stay_within_their_memory(zoo):
    z = zoo("adapter", "llama")
    memory = 4 * 128 * position_bytes(z.base.config, torch.float32)
    made = engine_of(z, slots=8, kv_memory=memory)
    try:
        answers = made.generate([request(tokens=100 if i == 3 else 10) for i in range(12)])
        assert [len(a.token_ids) for a in answers] == [100 if i == 3 else 10 for i in range(12)]
        assert made.steps.cache.nbytes <= memory
    finally:
        made.stop()
    with pytest.raises(InputError, match=r"kv_memory 100 holds 0 positions .* 64 are needed"):
        engine_of(z, kv_memory=100)


def test_a_stop_token_ends_the_answer(engine):
    tokens = engine.generate([request(tokens=12)])[0].token_ids
    stopped = engine.generate([request(tokens=12, stop_token_ids=(tokens[5],))])[0]
    first = tokens.index(tokens[5])
    assert stopped.token_ids == tokens[: first + 1] and stopped.finish_reason == "stop"
    assert stopped.text == tiny.tokenizer().decode(tokens[:first], skip_special_tokens=True)


def test_the_end_of_sequence_ends_the_answer_unless_ignored(engine, monkeypatch):
    tokens = engine.generate([request(tokens=12)])[0].token_ids
    monkeypatch.setattr(engine.steps, "eos", frozenset({tokens[5]}))
    ended = engine.generate([request(tokens=12, ignore_eos=False)])[0]
    assert ended.token_ids == tokens[: tokens.index(tokens[5]) + 1] and ended.finish_reason == "stop"
    assert engine.generate([request(tokens=12, ignore_eos=True)])[0].token_ids == tokens


def test_stop_string_ends_the_answer(engine):
    whole = engine.generate([request(tokens=20)])[0]
    word = whole.text[4:6]
    stopped = engine.generate([request(tokens=20, stop=(word,))])[0]
    assert stopped.text == whole.text[: whole.text.find(word)] and stopped.finish_reason == "stop"


@pytest.fixture
def slow(engine, monkeypatch):
    """Each step takes so long that an answer nobody cancels outlasts the test."""
    forward = engine.mixture.model.forward

    def wait(*args, **kwargs):
        time.sleep(0.05)
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine.mixture.model, "forward", wait)


def soon(condition):
    deadline = time.monotonic() + 1
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_closing_a_stream_frees_its_slot_at_once(engine, slow):
    async def go():
        stream = engine.stream(request(tokens=59))
        await anext(stream)
        assert len(engine.scheduler.running) == 1
        await stream.aclose()
        # With the loop still running: that a listener's loop has ended cancels by itself.
        return await asyncio.to_thread(soon, lambda: engine.scheduler.idle)

    assert asyncio.run(go()), "it was not cancelled: 59 steps take 3 s"


def test_cancelling_while_waiting_for_a_slot(engine, slow):
    async def go():
        running = [engine.stream(request(tokens=59)) for _ in range(2)]
        for stream in running:
            await anext(stream)
        waiting = asyncio.ensure_future(anext(engine.stream(request(tokens=5))))
        while not engine.scheduler.waiting:
            await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.sleep(0)
        left = await asyncio.to_thread(soon, lambda: not engine.scheduler.waiting)
        still = len(engine.scheduler.running)
        for stream in running:
            await stream.aclose()
        return left, still

    assert asyncio.run(go()) == (True, 2)


def test_a_request_refused_late_takes_the_earlier_ones_with_it(engine, slow):
    with pytest.raises(InputError, match="prompt is empty"):
        engine.generate([request(tokens=59), request(tokens=59), request(length=0)])
    time.sleep(0.3)  # long enough for both to have begun
    assert soon(lambda: engine.scheduler.idle)


def test_streamed_text_adds_up_to_the_answer(engine):
    async def go():
        return [event async for event in engine.stream(request(tokens=25))]

    events = asyncio.run(go())
    answer = engine.generate([request(tokens=25)])[0]
    assert "".join(event.text for event in events) == answer.text
    assert tuple(token for event in events for token in event.token_ids) == answer.token_ids
    assert [event.finish_reason for event in events] == [None] * 24 + ["length"]


def test_a_failing_step_fails_its_requests_and_not_the_engine(engine, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("device lost")

    with monkeypatch.context() as patch:
        patch.setattr(engine.mixture.model, "forward", broken)
        with pytest.raises(EngineError, match="send it again"):
            engine.generate([request()])
    assert engine.ready
    assert len(engine.generate([request()])[0].token_ids) == 4


def each(engine, requests):
    """Every request's answer or error."""

    def one(asked):
        try:
            return engine.generate([asked])[0]
        except EngineError as error:
            return error

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(one, requests))


def test_only_the_guilty_request_ends(engine, monkeypatch):
    """One token that the model cannot bear fails its own request, step after step."""
    alone = engine.generate([request(tokens=20)])[0]
    forward = engine.mixture.model.forward
    tried = []

    def allergic(*args, input_ids, **kwargs):
        tried.append(input_ids.shape[1])
        if 96 in input_ids:
            raise RuntimeError("96 is too much")
        return forward(*args, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(engine.mixture.model, "forward", allergic)
    guilty = GenerationRequest([5, 96, 7], SamplingParams(4), Target("static"))
    innocent, failed = each(engine, [request(tokens=20), guilty])
    assert innocent.token_ids == alone.token_ids
    assert isinstance(failed, EngineError) and "this request" in str(failed)
    assert engine.scheduler.idle


def test_numbers_that_overflow_end_their_own_request_and_leave_nothing_behind(engine, monkeypatch):
    """NaN keys and values, masked or not, would spoil whoever gets the row next."""
    clean = engine.generate([request(tokens=20)])[0]
    embed = engine.mixture.model.get_input_embeddings()
    forward = embed.forward

    def poisoned(ids):
        return forward(ids).masked_fill((ids == 96)[..., None], float("nan"))

    monkeypatch.setattr(embed, "forward", poisoned)
    bad = GenerationRequest([96] * 40, SamplingParams(4), Target("static"))
    worse = GenerationRequest([96] * 41, SamplingParams(4), Target("static"))
    for _ in range(2):
        good, failed = each(engine, [request(tokens=20), bad])
        assert good.token_ids == clean.token_ids
        assert isinstance(failed, EngineError) and "overflowed" in str(failed)
    engine._put(lambda: time.sleep(0.2))  # so that both run, fail and leave in one step
    assert all(isinstance(failed, EngineError) for failed in each(engine, [bad, worse]))
    after = each(engine, [request(tokens=20), request(tokens=20)])
    assert [answer.token_ids for answer in after] == [clean.token_ids] * 2


def test_a_late_request_is_given_up(engine, slow):
    engine.timeout = 0.3
    late = each(engine, [request(tokens=50), request(tokens=2)])
    assert isinstance(late[0], DeadlineError) and "in time" in str(late[0])
    assert len(late[1].token_ids) == 2
    assert soon(lambda: engine.scheduler.idle)


@pytest.mark.parametrize(("engines", "own"), [(None, 0.3), (30.0, 0.3), (0.3, 30.0)])
def test_the_shorter_of_the_engines_time_and_the_requests_counts(engine, slow, engines, own):
    engine.timeout = engines
    late, other = each(engine, [replace(request(tokens=50), timeout=own), request(tokens=2)])
    assert isinstance(late, DeadlineError)
    assert len(other.token_ids) == 2


def test_a_request_that_is_late_before_it_is_looked_at_is_told_and_not_logged(engine, slow, caplog):
    late, other = each(engine, [replace(request(), timeout=1e-9), request(tokens=2)])
    assert isinstance(late, DeadlineError)
    assert len(other.token_ids) == 2
    assert not caplog.records
    assert str(request().prompt) not in repr(request())


def test_stopping_tells_all_running_and_waiting_and_refuses_new_ones(engine, slow):
    told = []

    def ask():
        try:
            engine.generate([request(tokens=55)])
        except EngineError as error:
            told.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert soon(lambda: len(engine.scheduler.running) == 2 and len(engine.scheduler.waiting) == 2)
    engine.stop()
    for thread in threads:
        thread.join(timeout=10)
    assert told == ["the engine was stopped"] * 4
    assert not engine.ready
    with pytest.raises(EngineError, match="not running"):
        engine.generate([request()])


def test_a_failing_command_does_not_silence_the_next_ones(engine):
    def fail():
        raise RuntimeError("broken command")

    engine._put(fail)
    assert len(engine.generate([request()])[0].token_ids) == 4


@pytest.mark.parametrize(
    ("family", "changes", "wanted", "expected"),
    [
        ("llama", {"max_position_embeddings": 300}, None, 300),
        ("llama", {"max_position_embeddings": 300}, 100, 100),
        ("llama", {"max_position_embeddings": 90_000}, None, 4096),
        ("mistral", {"sliding_window": 50}, None, 256),
        ("gemma2", {"sliding_window": 40}, None, 256),
        ("qwen2", {"sliding_window": 40, "use_sliding_window": False}, None, 256),
    ],
)
def test_context_length(family, changes, wanted, expected):
    assert context_length(tiny.config(family, **changes), wanted) == expected


def test_longer_than_the_model_is_refused():
    with pytest.raises(InputError, match="more than this model's 256"):
        context_length(tiny.config("llama"), 257)


def test_state_space_layers_are_refused():
    config = tiny.config("qwen3_next", num_hidden_layers=4)
    with pytest.raises(InputError, match="linear_attention"):
        context_length(config, None)
