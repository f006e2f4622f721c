"""Generations held beside the one that serves: how they come, take over and go. No model."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.generations import (
    GenerationConflictError,
    GenerationStateError,
    LoadBusyError,
    UnknownGenerationError,
)
from serve.job import NotReadyError
from serve.live import Live
from tests.serve.administered import bundles, client, told
from tests.serve.switching import StubGeneration, in_loop, stub_live, until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return bundles(tmp_path)


async def two() -> Live[StubGeneration]:
    """Generation 1 serves and 2 is held."""
    live = stub_live()
    await live.switch(Path("a"), 0)
    assert await live.switch(Path("b.c"), 1, serve=False) == 2
    return live


def numbers(live: Live[StubGeneration]) -> tuple[int, list[int], list[int]]:
    return live.generation, [one.number for one in live.held], [one.number for one in live.leaving]


@in_loop
async def test_one_that_is_held_gets_no_traffic_of_its_own_and_takes_over_without_a_load() -> None:
    live = await two()
    assert numbers(live) == (1, [2], []) and live.tasks == ["a"]
    assert [engine.generation for engine in live.engines] == [1, 2]
    old, held = live.current.engine, live.held[0].engine
    live._make = None  # type: ignore[assignment]  # nothing may be loaded
    live.promote(2, 1)
    assert live.current.engine is held and live.tasks == ["b", "c"]
    await until(lambda: old.ended == "finished" and numbers(live) == (2, [], []))
    live.promote(2, 2)
    assert numbers(live) == (2, [], [])


@in_loop
async def test_numbers_are_used_once() -> None:
    live = await two()
    live.promote(2, 1)
    assert await live.switch(Path("a"), 2, serve=False) == 3
    live.release(3)
    assert await live.switch(Path("a"), 2) == 4


@in_loop
async def test_what_cannot_be_done_is_refused_and_changes_nothing() -> None:
    live = await two()
    for error, why, act in (
        (GenerationConflictError, "generation 1 serves, not 2", lambda: live.promote(2, 2)),
        (UnknownGenerationError, "generation 7 is not loaded; loaded are: 1, 2", lambda: live.promote(7, 1)),
        (UnknownGenerationError, "generation 7 is not loaded", lambda: live.release(7)),
        (GenerationStateError, "generation 1 serves; serve another one", lambda: live.release(1)),
        (UnknownGenerationError, "generation 7", lambda: live.pinned(7).__enter__()),
    ):
        with pytest.raises(error, match=why):
            act()
    live.held[0].engine.failed = True
    with pytest.raises(GenerationStateError, match="generation 2 has failed; load its bundle again"):
        live.promote(2, 1)
    with pytest.raises(GenerationConflictError):
        await live.switch(Path("d"), 2, serve=False)
    assert numbers(live) == (1, [2], [])
    live.drain()
    with pytest.raises(NotReadyError):
        await live.switch(Path("d"), 1, serve=False)
    with pytest.raises(NotReadyError):
        live.promote(2, 1)


@in_loop
async def test_nothing_takes_over_while_a_load_is_to() -> None:
    live, gate = await two(), threading.Event()
    make = live._make

    def slow(*given: Any) -> StubGeneration:
        gate.wait(10)
        return make(*given)

    live._make = slow
    load = asyncio.create_task(live.switch(Path("d"), 1))
    await until(lambda: live.loading is not None)
    with pytest.raises(LoadBusyError, match="d is being loaded"):
        live.promote(2, 1)
    gate.set()
    assert await load == 3
    gate.clear()
    load = asyncio.create_task(live.switch(Path("d"), 3, serve=False))
    await until(lambda: live.loading is not None)
    live.promote(2, 3)
    gate.set()
    assert await load == 4
    assert numbers(live)[:2] == (2, [4])


@in_loop
async def test_a_release_waits_for_requests_and_leases() -> None:
    live = await two()
    held = live.held[0].engine
    held.hold_at = 1
    with live.pinned(2) as engine:
        live.release(2)
        live.release(2)  # said twice, it goes once
        assert numbers(live) == (1, [], [2])
        with pytest.raises(UnknownGenerationError), live.pinned(2):
            pass
        await asyncio.sleep(0.02)
        assert held.ended is None and engine is held
    await until(lambda: held.ended == "finished" and not live.leaving)


@in_loop
async def test_a_stop_and_idleness_count_those_held() -> None:
    live = await two()
    old, held = live.current.engine, live.held[0].engine
    with live.pinned(2):
        assert not live.idle
    assert live.idle
    await live.stop()
    assert (old.ended, held.ended) == ("stopped", "stopped")


@in_loop
async def test_an_experiment_keeps_what_it_needs_over_a_switch_and_no_longer_than_that() -> None:
    live = await two()
    first = live.current.engine
    named = {first.digest: ["trial"]}
    live.needing = lambda digest: named.get(digest, [])
    live.promote(2, 1)
    assert numbers(live) == (2, [1], []) and not live.held[0].explicit
    with pytest.raises(GenerationStateError, match="generation 1 answers for an arm of 'trial'; stop that"):
        live.release(1)
    live.settle()
    assert numbers(live) == (2, [1], [])
    await live.switch(Path("d"), 2)
    assert numbers(live)[:2] == (3, [1])
    named.clear()
    live.settle()
    await until(lambda: first.ended == "finished" and numbers(live) == (3, [], []))


@in_loop
async def test_one_that_was_asked_for_stays_when_its_experiment_ends() -> None:
    live = await two()
    held = live.held[0].engine
    named = {held.digest: ["trial"]}
    live.needing = lambda digest: named.get(digest, [])
    named.clear()
    live.settle()
    assert numbers(live) == (1, [2], []) and held.ended is None


@in_loop
async def test_the_same_bundle_loaded_again_stands_in_for_one_that_is_needed() -> None:
    live = await two()
    first = live.current.engine
    live.needing = lambda digest: ["trial"] if digest == first.digest else []
    live.promote(2, 1)
    await live.switch(Path("a"), 2)
    await until(lambda: numbers(live) == (3, [], []))
    assert first.ended == "finished" and live.needs(live.current) == ["trial"]
    # But not one that has failed.
    await live.switch(Path("a"), 3, serve=False)
    live.held[0].engine.failed = True
    await live.switch(Path("d"), 3)
    assert numbers(live)[:2] == (5, [4, 3])
    live.release(4)
    await until(lambda: numbers(live) == (5, [3], []))


@in_loop
async def test_a_failed_one_is_neither_kept_nor_makes_the_endpoint_unready(root: Path) -> None:
    live = await two()
    live.held[0].engine.failed, live.held[0].engine.ready = True, False
    async with client(live, root) as http:
        assert (await http.get("/ready")).status_code == 200 == (await http.get("/health")).status_code
        assert (await http.get("/admin/generations")).json()["held"][0]["failed"] is True
    live.needing = lambda digest: ["trial"]
    live.release(2)
    await until(lambda: numbers(live) == (1, [], []))
    live.current.engine.failed = True
    await live.switch(Path("d"), 1)
    await until(lambda: numbers(live) == (3, [], []))


@in_loop
async def test_metrics_count_those_held() -> None:
    live = await two()
    async with client(live, None) as http:
        text = (await http.get("/metrics")).text
    assert "twinserve_generation 1.0" in text and "twinserve_generations_held 1.0" in text


def post(http: httpx.AsyncClient, **body: Any) -> Any:
    return http.post("/admin/generations", json={"expected_generation": 1, **body})


REFUSED = [
    ({"generation": 7}, 404, "generation", "generation_not_found"),
    ({"generation": 2, "expected_generation": 2}, 409, "expected_generation", "generation_conflict"),
    ({"generation": 2, "serve": False}, 400, "serve", "invalid_value"),
    ({"generation": 2, "bundle": "a"}, 400, "bundle", "invalid_value"),
    ({"generation": 0}, 400, "generation", "invalid_value"),
    ({"generation": "2"}, 400, "generation", "invalid_type"),
    ({}, 400, "bundle", "missing_required_parameter"),
    ({"bundle": "b.c", "serve": "no"}, 400, "serve", "invalid_type"),
    ({"bundle": "../outside", "serve": False}, 400, "bundle", "path_refused"),
    ({"bundle": "nothing", "serve": False}, 400, "bundle", "path_missing"),
    ({"bundle": "bad", "serve": False}, 400, None, "bundle_refused"),
]


@pytest.mark.parametrize(("body", "status", "param", "code"), REFUSED)
@in_loop
async def test_a_bad_request_is_refused_in_one_sentence(
    root: Path,
    body: dict[str, Any],
    status: int,
    param: str | None,
    code: str,
) -> None:
    live = await two()
    async with client(live, root) as http:
        refused = await post(http, **body)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"], error["code"]) == (status, param, code)
    assert "\n" not in error["message"] and numbers(live) == (1, [2], [])


@in_loop
async def test_the_routes_hold_list_serve_and_let_go(root: Path) -> None:
    live = stub_live()
    await live.switch(root / "a", 0)
    async with client(live, root) as http:
        state = (await post(http, bundle="b.c", serve=False)).json()
        assert state["current"] == told(1, root / "a")
        assert state["held"] == [{**told(2, root / "b.c"), "explicit": True}]
        for number, status, code in ((1, 409, "generation_in_use"), (7, 404, "generation_not_found")):
            refused = await http.delete(f"/admin/generations/{number}")
            assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
        assert (await http.delete("/admin/generations/two")).status_code == 400
        state = (await http.delete("/admin/generations/2")).json()
        assert (state["held"], [one["generation"] for one in state["draining"]]) == ([], [2])
        await post(http, bundle="b.c", serve=False)
        state = (await post(http, generation=3)).json()
        assert state["current"] == told(3, root / "b.c") and state["held"] == []


@in_loop
async def test_nobody_holds_or_lets_go_without_the_admin_key(root: Path) -> None:
    live = await two()
    async with client(live, root, key=False) as http:
        for refused in (await post(http, generation=2), await http.delete("/admin/generations/2")):
            assert refused.status_code == 401
    assert numbers(live) == (1, [2], [])
