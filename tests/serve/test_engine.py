"""The engine around the mathematics: refusals, cancelling, stopping, failing."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import torch

from compress.errors import InputError
from serve.engine import Engine
from serve.job import EngineError
from serve.kvcache import context_length
from serve.mixture import MixtureModel
from serve.request import GenerationRequest, SamplingParams, Target
from serve.settings import EngineSettings
from tests import tiny


@pytest.fixture
def engine(zoo):
    z = zoo("adapter", "llama")
    mixture = MixtureModel.load(z.bundle, dtype=torch.float32)
    made = Engine(
        mixture,
        tiny.tokenizer(),
        EngineSettings(max_model_len=64, slots=2),
        name="tiny",
        scalings=z.bundle.scalings,
    )
    made.start()
    yield made
    made.stop()


def request(length=5, tokens=4, target=None, **params):
    params = SamplingParams(max_tokens=tokens, **{"ignore_eos": True, **params})
    return GenerationRequest(tiny.prompt(1, length), params, target or Target("static"))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (request(length=0), "prompt is empty"),
        (request(tokens=0), "max_tokens must be at least 1"),
        (request(tokens=-3), "max_tokens must be at least 1"),
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
    z = zoo("adapter", "llama")
    mixture = MixtureModel.load(z.bundle, dtype=torch.float32)
    made = Engine(mixture, tiny.tokenizer(), EngineSettings(slots=2), scalings=z.bundle.scalings).start()
    try:
        first = made.generate([request(tokens=4)])[0]
        small = made.cache.nbytes
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("serve.kvcache.FIRST_LENGTH", 1)
            fresh = Engine(mixture, tiny.tokenizer(), EngineSettings(slots=2), scalings=z.bundle.scalings)
            fresh.start()
            long = fresh.generate([request(tokens=200), request(tokens=4)])
            fresh.stop()
        assert long[0].token_ids == made.generate([request(tokens=200)])[0].token_ids
        assert long[1].token_ids == first.token_ids
        assert made.cache.nbytes == small, "all of it fits into the first length"
    finally:
        made.stop()


def test_a_stop_token_ends_the_answer(engine):
    tokens = engine.generate([request(tokens=12)])[0].token_ids
    stopped = engine.generate([request(tokens=12, stop_token_ids=(tokens[5],))])[0]
    first = tokens.index(tokens[5])
    assert stopped.token_ids == tokens[: first + 1] and stopped.finish_reason == "stop"
    assert stopped.text == tiny.tokenizer().decode(tokens[:first], skip_special_tokens=True)


def test_the_end_of_sequence_ends_the_answer_unless_ignored(engine, monkeypatch):
    tokens = engine.generate([request(tokens=12)])[0].token_ids
    monkeypatch.setattr(engine, "_eos", frozenset({tokens[5]}))
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


def test_what_a_former_request_left_in_a_row_does_not_matter(engine):
    clean = engine.generate([request(tokens=8)])[0]
    with torch.inference_mode():
        for layer in engine.cache._stores:
            layer.keys.fill_(float("nan"))
            layer.values.fill_(float("nan"))
    assert engine.generate([request(tokens=8)])[0].token_ids == clean.token_ids


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
        ("mistral", {"sliding_window": 50}, None, 50),
        ("gemma2", {"sliding_window": 40}, None, 40),
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
