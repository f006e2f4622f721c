"""The routes below /admin: what they tell, what they switch, and which paths they refuse. No model."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.live import Live
from tests.serve.administered import bundles, client, told
from tests.serve.stub_engine import StubEngine
from tests.serve.switching import StubGeneration, in_loop, stub_live, until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return bundles(tmp_path)


def switch(http: httpx.AsyncClient, bundle: Any, expected: Any = 1) -> Any:
    return http.post("/admin/generations", json={"bundle": bundle, "expected_generation": expected})


async def started(root: Path) -> Live[StubGeneration]:
    live = stub_live()
    await live.switch(root / "a", 0)
    return live


@in_loop
async def test_a_switch_and_what_is_told_of_it(root: Path) -> None:
    live = await started(root)
    old = live.current.engine
    old.hold_at = 1
    async with client(live, root) as http:
        body = {"model": "twin:a", "prompt": "x"}
        begun = asyncio.create_task(http.post("/v1/completions", json=body))
        await old.held.wait()
        for bundle, number in (("b.c", 2), (str(root / "a"), 3), ("good-link", 4)):
            state = (await switch(http, bundle, number - 1)).json()
            assert state["current"]["generation"] == number
        assert state["current"] == told(4, root / "b.c")
        await until(lambda: len(live.leaving) == 1)
        state = (await http.get("/admin/generations")).json()
        assert state["draining"] == [{**told(1, root / "a"), "requests": 1}]
        assert state["loading"] is None and state["held"] == []
        old.release.set()
        await begun
        await until(lambda: not live.leaving)


@in_loop
async def test_a_task_is_a_name_and_no_path(root: Path) -> None:
    live = await started(root)
    async with client(live, root) as http:
        for task in ("../outside/x", "/etc/passwd", "a\x00b", "", "a b"):
            new = {"task": task, "checkpoint": "a", "prompts": "a", "expected_generation": 1}
            refused = await http.post("/admin/experts", json=new)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "task")


@in_loop
async def test_nobody_switches_without_the_admin_key(root: Path) -> None:
    live = await started(root)
    async with client(live, root, key=False) as http:
        for headers in ({}, {"authorization": "Bearer tws-other"}):
            http.headers.update(headers)
            refused = await switch(http, "b.c")
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
            assert (await http.get("/admin/generations")).status_code == 401
            gone = await http.delete("/admin/experts/a", params={"expected_generation": 1})
            assert gone.status_code == 401
            # Nor is a body looked at.
            broken = await http.post("/admin/generations", content=b'{"a')
            assert broken.status_code == 401
    assert live.generation == 1


@in_loop
async def test_errors_have_codes_that_programs_can_compare(root: Path) -> None:
    gate = threading.Event()
    live = await started(root)
    async with client(live, root) as http:
        conflict = await switch(http, "b.c", 7)
        assert conflict.status_code == 409 and conflict.json()["error"]["code"] == "generation_conflict"
        refused = await switch(http, "bad")
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "bundle_refused"
        make = live._make

        def slow(*given: Any) -> StubGeneration:
            gate.wait(10)
            return make(*given)

        live._make = slow
        first = asyncio.create_task(switch(http, "b.c"))
        await until(lambda: live.loading is not None)
        assert (await http.get("/admin/generations")).json()["loading"] == str(root / "b.c")
        busy = await switch(http, "a")
        assert busy.status_code == 429 and busy.json()["error"]["code"] == "load_busy"
        assert busy.headers["retry-after"]
        gate.set()
        assert (await first).status_code == 200
        wrong = await switch(http, "a", "one")
        assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "expected_generation"


@in_loop
async def test_paths_that_lead_out_are_refused_alike_whether_they_exist_or_not(root: Path) -> None:
    live = await started(root)
    outside = [
        "..", "../outside", "../nowhere", "a/../../outside", "a/../b.c", "/etc", "/nowhere", "link",
        "dangling", "loop", "leaky", "", ".", str(root), "a\0b", "x" * 5000,
    ]  # fmt: skip
    async with client(live, root) as http:
        said = set()
        for path in outside:
            response = await switch(http, path)
            assert response.status_code == 400, path
            said.add(response.text)
        assert len(said) == 1 and "path_refused" in said.pop()
        for missing in ("nothing", "org/model", "~/x", "package:x/y.gguf", "https://example.org/x"):
            response = await switch(http, missing)
            assert (response.status_code, response.json()["error"]["code"]) == (400, "path_missing")
    assert live.generation == 1


@in_loop
async def test_without_a_root_or_where_it_is_not_enabled_nothing_is_switched(root: Path) -> None:
    live = await started(root)
    async with client(live, None) as http:
        assert (await switch(http, str(root / "b.c"))).status_code == 403
    for engine, enabled in ((live, False), (StubEngine(), True)):
        async with client(engine, root, enabled) as http:
            assert (await http.get("/admin/generations")).status_code == 404
    assert live.generation == 1
