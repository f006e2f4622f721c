"""Streamed answers: OpenAI's server-sent events."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from compress.errors import InputError
from serve.job import EngineError
from tests.serve.stub_engine import StubEngine, chat, complete, frames

ROUTING = {
    "mixture": {"sorting": 1.0},
    "source": "router",
    "confidence": 0.75,
    "arm": "dynamic",
    "generation": 3,
}


def test_completion_stream() -> None:
    *chunks, done = frames(complete(StubEngine(), stream=True))
    assert done == "[DONE]"
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert chunks[0]["id"].startswith("cmpl-")
    assert all(chunk["object"] == "text_completion" and "usage" not in chunk for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    middle = {"index": 0, "logprobs": None, "finish_reason": None}
    assert choices == [
        {**middle, "text": "", "routing": ROUTING},
        {**middle, "text": "one"},
        {**middle, "text": " two"},
        {**middle, "text": " three"},
        {**middle, "text": " four", "finish_reason": "stop", "routing": ROUTING},
    ]


def test_chat_stream() -> None:
    *chunks, done = frames(chat(StubEngine(), stream=True, max_tokens=2))
    assert done == "[DONE]"
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert chunks[0]["id"].startswith("chatcmpl-")
    assert all(chunk["object"] == "chat.completion.chunk" and "usage" not in chunk for chunk in chunks)
    middle = {"index": 0, "logprobs": None, "finish_reason": None}
    assert [chunk["choices"][0] for chunk in chunks] == [
        {**middle, "delta": {"role": "assistant", "content": ""}, "routing": ROUTING},
        {**middle, "delta": {"content": "one"}},
        {**middle, "delta": {"content": " two"}},
        {**middle, "delta": {}, "finish_reason": "length", "routing": ROUTING},
    ]


@pytest.mark.parametrize("ask", [complete, chat])
def test_usage_comes_in_a_last_chunk_when_asked_for(ask: Any) -> None:
    whole = ask(StubEngine()).json()["usage"]
    *chunks, last, done = frames(
        ask(StubEngine(), stream=True, stream_options={"include_usage": True, "include_obfuscation": False})
    )
    assert done == "[DONE]"
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
    assert (last["choices"], last["usage"]) == ([], whole)
    *chunks, done = frames(ask(StubEngine(), stream=True, stream_options={"include_usage": False}))
    assert all("usage" not in chunk for chunk in chunks)


def test_streams_of_several_prompts_carry_the_index() -> None:
    *chunks, done = frames(complete(StubEngine(), ["sort a", "b"], stream=True))
    assert done == "[DONE]"
    choices = [chunk["choices"][0] for chunk in chunks]
    for index in (0, 1):
        own = [choice for choice in choices if choice["index"] == index]
        assert "".join(choice["text"] for choice in own) == "one two three four"
        assert own[0]["routing"] == own[-1]["routing"] == ROUTING
        assert [choice["finish_reason"] for choice in own] == [None] * 4 + ["stop"]


def test_streams_may_not_be_kept_or_buffered_on_the_way() -> None:
    response = chat(StubEngine(), stream=True)
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-length" not in response.headers


@pytest.mark.parametrize("prompts", [["sort"], ["sort", "b"]], ids=["one", "two"])
@pytest.mark.parametrize(
    ("fail", "kind", "code", "words"),
    [
        (InputError("this prompt cannot be continued"), "invalid_request_error", None, "continued"),
        (EngineError("the engine was stopped"), "server_error", "engine_failed", "stopped"),
        (RuntimeError("secret path"), "server_error", "internal_error", "failed"),
    ],
    ids=["input", "engine", "bug"],
)
def test_an_error_in_the_middle_is_the_last_event(
    prompts: list[str], fail: Exception, kind: str, code: str | None, words: str
) -> None:
    engine = StubEngine()
    engine.fail, engine.fail_at = fail, 2
    response = complete(engine, prompts, stream=True)
    assert response.status_code == 200
    *chunks, last = frames(response)
    assert "one" in [chunk["choices"][0]["text"] for chunk in chunks]
    error = last["error"]
    assert (error["type"], error["code"], error["param"]) == (kind, code, None)
    assert words in error["message"]
    assert "secret" not in response.text
    assert engine.running == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fail", "status"),
    [(InputError("no"), 400), (EngineError("stopped"), 503), (RuntimeError("secret"), 500)],
)
def test_an_error_before_the_first_token_has_a_status(fail: Exception, status: int, stream: bool) -> None:
    engine = StubEngine()
    engine.fail = fail
    response = chat(engine, stream=stream)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert "secret" not in response.text


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_ends_without_an_answer_is_an_error(stream: bool) -> None:
    class Mute(StubEngine):
        async def stream(self, request: Any) -> Any:
            return
            yield

    response = chat(Mute(), stream=stream)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_refuses_is_a_400_before_anything_runs(stream: bool) -> None:
    engine = StubEngine()
    engine.refuse = "this bundle has no router"
    response = chat(engine, stream=stream)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "this bundle has no router"
    assert engine.requests == []


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_the_engine_cancels_does_not_hang(stream: bool) -> None:
    engine = StubEngine()
    engine.fail, engine.fail_at = asyncio.CancelledError(), 2
    response = chat(engine, stream=stream)
    if stream:
        assert frames(response)[-1]["error"]["code"] == "internal_error"
    else:
        assert response.status_code == 500
