"""Generations come and go: who answers what, and when the old one ends. No model."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import httpx
import pytest

from compress.errors import InputError
from serve.api.app import create_app
from serve.generations import GenerationConflictError, LoadBusyError
from serve.job import NotReadyError
from serve.live import Live
from tests.serve.stub_engine import Connection
from tests.serve.switching import StubGeneration, in_loop, stub_live, until

BODY = {"model": "twin:sorting", "prompt": "a", "max_tokens": 4}


def client(live: Live[StubGeneration]) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(live)), base_url="http://twin")


@in_loop
async def test_a_request_that_has_begun_is_answered_by_its_own_generation() -> None:
    live = stub_live()
    await live.switch(Path("sorting"), 0)
    old = live.current.engine
    old.hold_at = 2
    async with client(live) as http:
        begun = asyncio.create_task(http.post("/v1/completions", json=BODY))
        await old.held.wait()
        assert await live.switch(Path("sorting.other"), 1) == 2
        after = (await http.post("/v1/completions", json=BODY)).json()
        assert after["choices"][0]["routing"]["generation"] == 2
        assert [one.number for one in live.leaving] == [1] and live.leaving[0].requests == 1
        assert old.ended is None and not live.idle
        old.release.set()
        assert (await begun).json()["choices"][0]["routing"]["generation"] == 1
    await until(lambda: not live.leaving)
    assert old.ended == "finished"


@in_loop
async def test_a_stream_keeps_its_generation_to_its_end() -> None:
    live = stub_live()
    await live.switch(Path("sorting"), 0)
    old = live.current.engine
    old.hold_at = 2
    connection = Connection(create_app(live), "/v1/completions", {**BODY, "stream": True, "n": 2})
    await connection.until(lambda sent: len(sent) > 2)
    await live.switch(Path("sorting"), 1)
    await asyncio.sleep(0.05)
    assert live.leaving[0].requests == 2 and old.ended is None
    old.release.set()
    await connection.task
    sent = b"".join(message.get("body", b"") for message in connection.sent)
    assert sent.endswith(b"data: [DONE]\n\n") and b'"generation":2' not in sent
    await until(lambda: old.ended == "finished")


@in_loop
async def test_a_client_that_reads_no_more_keeps_no_generation() -> None:
    live = stub_live()
    await live.switch(Path("sorting"), 0)
    old = live.current.engine
    connection = Connection(create_app(live), "/v1/completions", {**BODY, "stream": True})
    connection.block_sending()
    await connection.until(bool)
    await live.switch(Path("sorting"), 1)
    await until(lambda: old.ended == "finished")
    connection.cut()
    await connection.task


@in_loop
async def test_a_removed_task_is_unknown_afterwards() -> None:
    live = stub_live()
    await live.switch(Path("sorting.other"), 0)
    async with client(live) as http:
        assert (await http.post("/v1/completions", json=BODY)).status_code == 200
        await live.switch(Path("other"), 1)
        refused = await http.post("/v1/completions", json=BODY)
        assert refused.status_code == 404 and refused.json()["error"]["code"] == "model_not_found"
        assert [one["id"] for one in (await http.get("/v1/models")).json()["data"]][-1] == "twin:other"


@in_loop
async def test_only_the_expected_generation_is_replaced_and_a_failed_load_changes_nothing() -> None:
    live = stub_live()
    await live.switch(Path("sorting"), 0)
    with pytest.raises(GenerationConflictError, match="generation 1 serves, not 2"):
        await live.switch(Path("other"), 2)
    serving = live.current.engine
    with pytest.raises(InputError, match="not a bundle"):
        await live.switch(Path("bad"), 1)
    assert live.current.engine is serving and live.loading is None and live.ready
    assert await live.switch(Path("other"), 1) == 2


@in_loop
async def test_one_load_at_a_time_which_a_caller_that_leaves_does_not_end() -> None:
    gate = threading.Event()

    def make(bundle: Path, number: int, beside: StubGeneration | None) -> StubGeneration:
        gate.wait(10)
        return StubGeneration(number, ["sorting"])

    live: Live[StubGeneration] = Live("twin", make)
    first = asyncio.create_task(live.switch(Path("one"), 0))
    await until(lambda: live.loading == Path("one"))
    with pytest.raises(LoadBusyError, match="one is being loaded"):
        await live.switch(Path("two"), 0)
    first.cancel()
    gate.set()
    await until(lambda: live.generation == 1)
    assert live.loading is None


@in_loop
async def test_before_the_first_generation_the_port_answers_the_truth() -> None:
    live = stub_live()
    async with client(live) as http:
        assert (await http.get("/health")).status_code == 200
        assert "twinserve_generation 0.0" in (await http.get("/metrics")).text
        for refused in (
            await http.get("/ready"),
            await http.get("/v1/models"),
            await http.post("/v1/completions", json=BODY),
        ):
            assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "not_ready"
        await live.switch(Path("sorting"), 0)
        assert (await http.get("/ready")).status_code == 200


@in_loop
async def test_an_engine_that_has_died_is_told_to_whoever_restarts() -> None:
    live = stub_live()
    await live.switch(Path("sorting"), 0)
    live.current.engine.ready, live.current.engine.failed = False, True
    async with client(live) as http:
        dead = await http.get("/health")
        assert dead.status_code == 503 and dead.json()["error"]["code"] == "engine_dead"
        assert (await http.get("/ready")).status_code == 503


@in_loop
async def test_a_drain_refuses_what_is_new_and_loads_nothing() -> None:
    live = stub_live()
    await live.switch(Path("sorting"), 0)
    engine = live.current.engine
    engine.hold_at = 1
    async with client(live) as http:
        begun = asyncio.create_task(http.post("/v1/completions", json=BODY))
        await engine.held.wait()
        live.drain()
        assert (await http.get("/ready")).status_code == 503
        assert (await http.get("/health")).status_code == 200
        assert (await http.post("/v1/completions", json=BODY)).json()["error"]["code"] == "not_ready"
        with pytest.raises(NotReadyError):
            await live.switch(Path("other"), 1)
        assert not live.idle
        engine.release.set()
        assert (await begun).status_code == 200
        assert live.idle
