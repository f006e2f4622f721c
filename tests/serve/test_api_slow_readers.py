"""Streams that nobody reads: memory bounded by the answer, and an end after a while."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve.api.app import create_app
from serve.api.backlog import LOOSE, Backlog
from serve.api.limits import Limits
from serve.request import Event, GenerationRequest, Routing, TokenLogprob
from serve.serversettings import ServerSettings
from tests.serve.server import serving
from tests.serve.stub_engine import Connection, StubEngine

ROUTING = Routing({}, "static", None, "static", 1)
PROMPT = {"model": "twin", "prompt": "sort these", "stream": True}


def event(number: int, finish: Any = None) -> Event:
    return Event(f"{number} ", (number,), ROUTING, finish, (TokenLogprob(number, -1.0),))


def test_events_that_wait_are_joined_and_nothing_is_lost() -> None:
    async def run() -> None:
        backlog = Backlog()
        for number in range(1000):
            for choice in (0, 1):
                backlog.put(choice, event(number, "stop" if number == 999 else None))
        backlog.end()
        backlog.end()
        assert len(backlog) == 2 * LOOSE + 2
        got: dict[int, list[Event]] = {0: [], 1: []}
        while (tagged := await backlog.get()) is not None:
            got[tagged[0]].append(tagged[1])
        for events in got.values():
            assert len(events) == LOOSE
            assert "".join(one.text for one in events) == "".join(f"{i} " for i in range(1000))
            assert [token for one in events for token in one.token_ids] == list(range(1000))
            assert [found.token_id for one in events for found in one.logprobs] == list(range(1000))
            assert [one.finish_reason for one in events] == [None] * (LOOSE - 1) + ["stop"]

    asyncio.run(run())


def test_what_only_the_first_event_has_is_kept() -> None:
    async def run() -> None:
        backlog = Backlog()
        scores = (TokenLogprob(1, -0.5), TokenLogprob(2, -0.25))
        first = Event("a", (5,), ROUTING, prompt_logprobs=scores, cached_tokens=3)
        backlog.put(0, first)
        assert await backlog.get() == (0, first)

    asyncio.run(run())


def test_a_reader_who_catches_up_gets_events_one_by_one_again() -> None:
    async def run() -> None:
        backlog = Backlog()
        for number in range(LOOSE + 5):
            backlog.put(0, event(number))
        sizes = [len((await backlog.get() or (0, event(0)))[1].token_ids) for _ in range(LOOSE)]
        assert sizes == [1] * (LOOSE - 1) + [6]
        for number in range(3):
            backlog.put(0, event(number))
            assert await backlog.get() == (0, event(number))

    asyncio.run(run())


def test_a_failure_comes_after_what_was_before_it() -> None:
    async def run() -> None:
        backlog = Backlog()
        waiting = asyncio.create_task(backlog.get())
        await asyncio.sleep(0)
        backlog.put(0, event(1))
        backlog.end(ValueError("no"))
        assert await waiting == (0, event(1))
        with pytest.raises(ValueError, match="no"):
            await backlog.get()

    asyncio.run(run())


class Talkative(StubEngine):
    """Gives 5000 tokens at once, then waits for ``release``."""

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Event]:
        self.running += 1
        try:
            for number in range(5000):
                yield event(number)
                await asyncio.sleep(0)
            self.held.set()
            await self.release.wait()
            yield event(5000, "stop")
        finally:
            self.running -= 1
            self.cancelled += not self.release.is_set()


def test_a_slow_reader_gets_the_whole_answer_in_few_chunks() -> None:
    engine = Talkative()

    async def run() -> list[Any]:
        connection = Connection(create_app(engine), "/v1/completions", PROMPT)
        await connection.until(lambda sent: len(sent) > 1)
        connection.block_sending()
        await engine.held.wait()
        engine.release.set()
        connection.read_on()
        await connection.task
        return connection.sent

    sent = asyncio.run(asyncio.wait_for(run(), 20))
    text = b"".join(message.get("body", b"") for message in sent).decode()
    *chunks, done = text.removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    pieces = [json.loads(chunk.removeprefix("data: "))["choices"][0]["text"] for chunk in chunks]
    assert "".join(pieces) == "".join(f"{i} " for i in range(5001))
    assert len(pieces) < 100


def test_who_reads_nothing_is_disconnected_and_the_engine_freed() -> None:
    engine = Talkative()
    app = create_app(engine, ServerSettings(limits=Limits(stalled_reader=0.2)))

    async def run() -> list[Any]:
        connection = Connection(app, "/v1/completions", PROMPT)
        await connection.until(lambda sent: len(sent) > 1)
        connection.block_sending()
        await connection.task
        return connection.sent

    sent = asyncio.run(asyncio.wait_for(run(), 20))
    assert (engine.running, engine.cancelled) == (0, 1)
    assert app.state.gate_metrics.stalled == 1
    assert app.state.gate_metrics.admitted == 0
    assert sent[-1].get("more_body", True)  # the response has no end, so the server closes the connection


class Voluminous(StubEngine):
    """Pieces of text too large for the buffers between here and the client."""

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Event]:
        self.running += 1
        try:
            while True:
                yield Event("a" * 2**20, (1,), ROUTING)
                await asyncio.sleep(0.005)
        finally:
            self.running -= 1
            self.cancelled += 1


def test_over_a_real_connection_who_reads_nothing_is_cut_off() -> None:
    engine = Voluminous()
    body = json.dumps(PROMPT)
    with (
        serving(engine, ServerSettings(limits=Limits(stalled_reader=0.3))) as address,
        socket.create_connection(("127.0.0.1", int(address.split(":")[2].split("/")[0]))) as connection,
    ):
        connection.sendall(
            "POST /v1/completions HTTP/1.1\r\nHost: twin\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        deadline = time.monotonic() + 20
        while not engine.cancelled and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (engine.running, engine.cancelled) == (0, 1)
        connection.settimeout(10)
        while connection.recv(2**20):  # what was on its way, and then the end
            pass


def test_a_reader_with_pauses_is_no_stalled_reader() -> None:
    engine = StubEngine()
    engine.hold_at = 2
    app = create_app(engine, ServerSettings(limits=Limits(stalled_reader=0.2)))

    async def run() -> list[Any]:
        connection = Connection(app, "/v1/completions", PROMPT)
        await engine.held.wait()
        await asyncio.sleep(0.4)  # it is the engine that takes its time
        engine.release.set()
        await connection.task
        return connection.sent

    sent = asyncio.run(asyncio.wait_for(run(), 20))
    assert b"[DONE]" in b"".join(message.get("body", b"") for message in sent)
    assert app.state.gate_metrics.stalled == 0
