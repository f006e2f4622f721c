"""A client that leaves frees the engine at once, whatever it was waiting for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serve.api.app import create_app
from tests.serve.stub_engine import Connection, StubEngine

PROMPT = {"model": "twin", "prompt": "sort these"}
PROMPTS = {"model": "twin", "prompt": ["sort", "these"]}
CHAT = {"model": "twin", "messages": [{"role": "user", "content": "sort these"}]}
CASES = [
    pytest.param("/v1/completions", PROMPT, 1, id="completion"),
    pytest.param("/v1/completions", PROMPTS, 2, id="two prompts"),
    pytest.param("/v1/chat/completions", CHAT, 1, id="chat"),
]


def held(
    engine: StubEngine, path: str, body: Any, then: Callable[[Connection], Awaitable[None]]
) -> list[Any]:
    """Start a request, wait until the engine holds it, do ``then``; what was sent to the client."""

    async def run() -> list[Any]:
        connection = Connection(create_app(engine), path, body)
        await engine.held.wait()
        await then(connection)
        return connection.sent

    return asyncio.run(asyncio.wait_for(run(), 10))


async def hang_up(connection: Connection) -> None:
    connection.cut()
    await connection.task


async def cancel(connection: Connection) -> None:
    connection.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connection.task


@pytest.mark.parametrize("leave", [hang_up, cancel])
@pytest.mark.parametrize("hold_at", [0, 2], ids=["queued", "answering"])
@pytest.mark.parametrize(("path", "body", "count"), CASES)
def test_plain_requests(path: str, body: Any, count: int, hold_at: int, leave: Any) -> None:
    engine = StubEngine()
    engine.hold_at = hold_at
    sent = held(engine, path, body, leave)
    assert (engine.cancelled, engine.running) == (count, 0)
    assert not any(message.get("status") == 200 for message in sent)


@pytest.mark.parametrize("leave", [hang_up, cancel])
@pytest.mark.parametrize(("path", "body", "count"), CASES)
def test_streams_that_have_not_begun(path: str, body: Any, count: int, leave: Any) -> None:
    engine = StubEngine()
    engine.hold_at = 0
    sent = held(engine, path, body | {"stream": True}, leave)
    assert (engine.cancelled, engine.running) == (count, 0)
    assert not any(message.get("status") == 200 for message in sent)


@pytest.mark.parametrize("leave", [hang_up, cancel])
@pytest.mark.parametrize(("path", "body", "count"), CASES)
def test_streams_in_the_middle(path: str, body: Any, count: int, leave: Any) -> None:
    engine = StubEngine()
    engine.hold_at = 3

    async def after_some_text(connection: Connection) -> None:
        await connection.until(lambda sent: b" two" in sent[-1].get("body", b"") if sent else False)
        assert engine.cancelled == 0
        await leave(connection)

    sent = held(engine, path, body | {"stream": True}, after_some_text)
    assert (engine.cancelled, engine.running) == (count, 0)
    assert sent[0]["status"] == 200
    assert b"[DONE]" not in b"".join(message.get("body", b"") for message in sent)


def test_a_client_that_leaves_between_headers_and_text() -> None:
    """The generator of the stream's text has not started then, and cleans up nothing itself."""
    engine = StubEngine()
    engine.hold_at = 1

    async def run() -> None:
        connection = Connection(create_app(engine), "/v1/completions", PROMPT | {"stream": True})
        connection.block_sending()
        await connection.until(bool)
        await engine.held.wait()
        await hang_up(connection)

    asyncio.run(asyncio.wait_for(run(), 10))
    assert (engine.cancelled, engine.running) == (1, 0)


def test_route_is_cancelled_too() -> None:
    engine = StubEngine()
    engine.hold_at = 0
    sent = held(engine, "/v1/route", {"input": "a"}, hang_up)
    assert not any(message.get("status") == 200 for message in sent)


def test_a_request_that_stays_is_answered() -> None:
    engine = StubEngine()
    engine.hold_at = 2

    async def stay(connection: Connection) -> None:
        engine.release.set()
        await connection.task

    sent = held(engine, "/v1/completions", PROMPT, stay)
    assert sent[0]["status"] == 200
    assert (engine.cancelled, engine.running) == (0, 0)


def test_one_failing_prompt_stops_the_others() -> None:
    class HalfBroken(StubEngine):
        async def stream(self, request: Any) -> Any:
            if request.turns == ("these",):
                await self.held.wait()
                raise RuntimeError("broken")
            async for event in super().stream(request):
                yield event

    engine = HalfBroken()
    engine.hold_at = 2

    async def finish(connection: Connection) -> None:
        await connection.task

    sent = held(engine, "/v1/completions", PROMPTS, finish)
    assert sent[0]["status"] == 500
    assert engine.running == 0
