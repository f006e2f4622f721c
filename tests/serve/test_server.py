"""A server that drains: what is new is refused, what has begun is answered or told, and it ends. No model."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import uvicorn

from compress.errors import InputError
from serve.api.app import create_app
from serve.live import Live
from serve.server import Server
from serve.threads import working
from tests.serve.switching import StubGeneration, stub_live

BODY = {"model": "twin", "prompt": "a", "max_tokens": 4}


class Running:
    """A server in a thread. address: of its root."""

    def __init__(self, live: Live[StubGeneration], bundle: str, timeout: float) -> None:
        self.listening = socket.socket()
        self.listening.bind(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        config = uvicorn.Config(create_app(live), log_level="warning", lifespan="off")
        self.live, self.server = live, Server(config, live, Path(bundle), timeout, lambda: None)
        self.thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self.listening]}, daemon=True
        )
        self.thread.start()

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.005)

    def ended(self, seconds: float = 10) -> bool:
        self.thread.join(seconds)
        return not self.thread.is_alive()


@contextmanager
def running(bundle: str = "sorting", timeout: float = 30, hold_at: int | None = 2) -> Iterator[Running]:
    """A server whose engine waits before event ``hold_at`` of every answer."""
    live = stub_live()
    made = Running(live, bundle, timeout)
    try:
        made.until(lambda: live.generation or made.server.failure)
        if live.generation:
            live.current.engine.hold_at = hold_at
        yield made
    finally:
        made.server.should_exit = True
        if live.generation:
            release(made)
        assert made.ended()


def release(made: Running) -> None:
    """Let held answers go on, in the server's own loop."""
    assert made.server._first is not None
    loop, event = made.server._first.get_loop(), made.live.current.engine.release
    with suppress(RuntimeError):  # the server has ended
        loop.call_soon_threadsafe(event.set)


def frames(lines: Iterator[str]) -> list[str]:
    return [line.removeprefix("data: ") for line in lines if line]


def test_a_drain_lets_running_answers_end_and_refuses_new_ones_on_open_connections() -> None:
    with running() as made, httpx.Client(base_url=made.address) as idle, httpx.Client() as busy:
        assert idle.get("/ready").status_code == 200  # and its connection stays open
        with busy.stream("POST", f"{made.address}/v1/completions", json={**BODY, "stream": True}) as stream:
            made.server.drain()
            for refused in (idle.get("/ready"), httpx.post(f"{made.address}/v1/completions", json=BODY)):
                assert refused.status_code == 503
                assert refused.headers["connection"] == "close" and refused.headers["retry-after"]
            assert idle.get("/health").status_code == 200
            time.sleep(0.3)
            assert made.thread.is_alive()
            release(made)
            assert frames(stream.iter_lines())[-1] == "[DONE]"
        assert made.ended(3)
        assert made.live.current.engine.ended == "stopped"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{made.address}/ready")


def test_after_its_time_a_stream_ends_with_an_error_and_the_server_with_it() -> None:
    with running(timeout=0.3) as made:
        engine = made.live.current.engine

        def stop() -> None:
            engine.ended = "stopped"
            engine.fail, engine.fail_at = RuntimeError("stopped"), 2
            release(made)

        engine.stop = stop  # type: ignore[method-assign]
        with httpx.stream("POST", f"{made.address}/v1/completions", json={**BODY, "stream": True}) as stream:
            began = time.monotonic()
            made.server.drain()
            last = frames(stream.iter_lines())[-1]
        assert json.loads(last)["error"]["type"] == "server_error"
        assert 0.3 <= time.monotonic() - began < 3
        assert made.ended(3)


def test_a_server_without_requests_ends_at_once_whatever_connections_are_open() -> None:
    with running() as made, httpx.Client(base_url=made.address) as idle:
        idle.get("/ready")
        began = time.monotonic()
        made.server.drain()
        assert made.ended(3) and time.monotonic() - began < 2


def test_a_first_bundle_that_cannot_be_loaded_ends_the_server() -> None:
    with running("bad") as made:
        assert made.ended(3) and isinstance(made.server.failure, InputError)


def test_the_port_answers_while_the_first_bundle_loads_and_a_drain_does_not_wait_for_it() -> None:
    gate = threading.Event()

    def make(bundle: Path, number: int, beside: StubGeneration | None) -> StubGeneration:
        assert gate.wait(10)
        return StubGeneration(number, ["sorting"])

    live: Live[StubGeneration] = Live("twin", make)
    made = Running(live, "sorting", 30)
    try:
        made.until(lambda: live.loading is not None)
        assert httpx.get(f"{made.address}/health").status_code == 200
        assert httpx.get(f"{made.address}/ready").status_code == 503
        made.server.drain()
        assert made.ended(3)
        assert working(), "the command would not know that it must not wait"
    finally:
        gate.set()
