"""Arms of several generations: which one answers, what is told of it, and what keeps it loaded. No model."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from serve.adminsettings import Admin
from serve.api.app import create_app
from serve.api.security import Security
from serve.experiments.memory import Memory
from serve.job import EngineError
from serve.live import Live
from serve.serversettings import ServerSettings
from tests.serve.experiments.made import ADMIN, begin, client, complete, declared
from tests.serve.stub_engine import Connection
from tests.serve.switching import StubGeneration, in_loop, stub_live, until

ROOT = "/v1/admin/experiments/trial"
SETTINGS = ServerSettings.model_construct(
    admin=Admin(enabled=True), security=Security(admin_key=SecretStr("tws-admin"))
)
USERS = [f"user-{number}" for number in range(16)]


def arms(**generations: int | str) -> list[dict[str, Any]]:
    """Static arms of equal shares; a generation by its number, or by its bundle's digest."""
    keys = {name: "generation" if isinstance(which, int) else "digest" for name, which in generations.items()}
    share = 1 / len(generations)
    return [
        {"name": name, "model": "static", keys[name]: which, "share": share}
        for name, which in generations.items()
    ]


async def two() -> Live[StubGeneration]:
    """Generation 1 serves and 2 is held."""
    live = stub_live()
    await live.switch(Path("sorting"), 0)
    await live.switch(Path("sorting.other"), 1, serve=False)
    return live


def leases(live: Live[StubGeneration]) -> list[int]:
    return [one.leases for one in [*live.loaded, *live.leaving]]


def generation(response: httpx.Response) -> int:
    (choice,) = response.json()["choices"]
    assert response.headers["x-twinserve-generation"] == str(choice["routing"]["generation"])
    found: int = choice["routing"]["generation"]
    return found


@in_loop
async def test_each_arm_is_answered_by_its_own_generation_and_all_that_is_told_says_so() -> None:
    live, memory = await two(), Memory()
    async with client(live, memory, SETTINGS) as http:
        began = (await begin(http, arms=arms(old=1, new=2))).json()
        assert [(arm["generation"], arm["digest"]) for arm in began["experiment"]["arms"]] == [
            (None, live.current.digest), (None, live.held[0].digest),
        ]  # fmt: skip
        found = set()
        for user in USERS:
            for fields in ({}, {"stream": True}):
                response = await complete(http, user, **fields)
                assert response.status_code == 200
                number = {"old": 1, "new": 2}[response.headers["x-twinserve-arm"]]
                assert response.headers["x-twinserve-generation"] == str(number)
            chat = {"model": "twin", "user": user, "messages": [{"role": "user", "content": "sort"}]}
            whole = await http.post("/v1/chat/completions", json=chat)
            assert generation(whole) == number
            record = memory.find(whole.json()["id"])
            assert record is not None and record.generation == number
            found.add(number)
        assert found == {1, 2} and leases(live) == [0, 0]
        for model in ("twin:static", "twin:dynamic", "twin:sorting"):
            assert generation(await complete(http, USERS[0], model=model)) == 1
        assert (await complete(http, USERS[0], model="twin:other")).status_code == 404


@in_loop
async def test_an_arm_may_name_an_expert_that_only_its_generation_has() -> None:
    live = await two()
    async with client(live, settings=SETTINGS) as http:
        own = [{"name": "a", "share": 0}, {"name": "b", "model": "other", "generation": 2, "share": 1}]
        await begin(http, arms=own)
        response = await complete(http, "ann")
        assert generation(response) == 2
        assert response.json()["choices"][0]["routing"]["mixture"] == {"other": 1.0}
        refused = await begin(http, name="second", arms=[own[0], {**own[1], "generation": 1}])
        assert "no model 'other' in generation 1" in refused.json()["error"]["message"]


@in_loop
async def test_a_request_is_counted_where_it_is_answered() -> None:
    live = await two()
    live.held[0].engine.hold_at = 1
    async with client(live, settings=SETTINGS) as http:
        await begin(http, arms=arms(a=2, b=2))
        asked = asyncio.create_task(complete(http, "ann"))
        await live.held[0].engine.held.wait()
        state = (await http.get("/admin/generations", headers=ADMIN)).json()
        assert (state["current"]["requests"], state["held"][0]["requests"]) == (0, 1)
        live.held[0].engine.release.set()
        assert generation(await asked) == 2
    assert leases(live) == [0, 0]


@pytest.mark.parametrize("hold_at", [0, 1, 3])
@pytest.mark.parametrize("stream", [True, False])
@in_loop
async def test_leases_balance_when_clients_leave(stream: bool, hold_at: int) -> None:
    live = await two()
    app = create_app(live, SETTINGS)
    engine = live.held[0].engine
    engine.hold_at = hold_at
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://twin") as http:
        await begin(http, arms=arms(a=2, b=2))
    body = {"model": "twin", "prompt": "sort", "user": "ann", "stream": stream, "n": 2}
    connection = Connection(app, "/v1/completions", body)
    await engine.held.wait()
    connection.cut()
    await connection.task
    await until(lambda: engine.running == 0)
    assert engine.cancelled == 2 and leases(live) == [0, 0]
    await app.state.trials.board.stop("trial", "done")
    live.release(2)
    await until(lambda: engine.ended == "finished")


@pytest.mark.parametrize("fields", [{}, {"stream": True}])
@in_loop
async def test_a_failure_is_that_of_its_arm_and_leaves_no_lease(fields: dict[str, Any]) -> None:
    live, memory = await two(), Memory()
    live.held[0].engine.fail = EngineError("no")
    async with client(live, memory, SETTINGS) as http:
        await begin(http, arms=arms(old=1, new=2))
        for user in USERS:
            response = await complete(http, user, **fields)
            if response.status_code != 200:
                assert response.json()["error"]["code"] == "engine_failed"
    failed = {(record.arm, record.generation, record.metrics["error"]) for record in memory.served("trial")}
    assert failed == {("old", 1, 0.0), ("new", 2, 1.0)} and leases(live) == [0, 0]


@in_loop
async def test_refused_requests_leave_no_lease() -> None:
    live = await two()
    live.held[0].engine.refuse = "not served"
    async with client(live, settings=SETTINGS) as http:
        await begin(http, arms=arms(a=2, b=2))
        for fields in ({"prompt": " "}, {"max_tokens": 1000}, {"stream_options": {}}, {}):
            assert (await complete(http, "ann", **fields)).status_code == 400
    assert leases(live) == [0, 0] and not live.held[0].engine.requests


@in_loop
async def test_a_switch_leaves_every_unit_with_its_generation_until_the_experiment_ends() -> None:
    live = await two()
    first = live.current.engine
    async with client(live, settings=SETTINGS) as http:
        await begin(http, arms=arms(old=1, new=2))

        async def answers() -> list[int]:
            return [generation(await complete(http, user)) for user in USERS]

        before = await answers()
        assert set(before) == {1, 2}
        switched = {"generation": 2, "expected_generation": 1}
        state = (await http.post("/admin/generations", json=switched, headers=ADMIN)).json()
        assert state["current"]["generation"] == 2 and state["current"]["experiments"] == ["trial"]
        (held,) = state["held"]
        assert (held["generation"], held["experiments"], held["explicit"]) == (1, ["trial"], False)
        assert await answers() == before
        assert generation(await complete(http)) == 2, "who takes no part is answered by the one that serves"
        refused = await http.delete("/admin/generations/1", headers=ADMIN)
        assert (
            refused.status_code == 409 and "arm of 'trial'; stop that" in refused.json()["error"]["message"]
        )
        shares = {"shares": {"old": 0.2, "new": 0.8}}
        assert (await http.patch(ROOT, json=shares, headers=ADMIN)).json()["version"] == 2
        assert live.held and first.ended is None
        await http.delete(ROOT, headers=ADMIN)
        await until(lambda: first.ended == "finished" and not live.held and not live.leaving)
        assert set(await answers()) == {2}


@in_loop
async def test_after_a_restart_only_the_same_bundle_answers_for_an_arm(caplog: Any) -> None:
    memory, live = Memory(), await two()
    async with client(live, memory, SETTINGS) as http:
        await begin(http, arms=arms(old=1, new=2))
        before = {user: (await complete(http, user)).headers["x-twinserve-arm"] for user in USERS}
    again = stub_live()
    await again.switch(Path("sorting.other"), 0)
    await again.switch(Path("third"), 1, serve=False)  # a generation 2, and not the one that was meant
    async with client(again, memory, SETTINGS) as http:
        for user in USERS[:4]:
            assert "x-twinserve-experiment" not in (await complete(http, user)).headers
        digest = live.current.digest[:16]
        told = (
            f"nobody takes part in experiment trial: arm 'old': its bundle, with the digest {digest}…, is not"
        )
        assert caplog.text.count(told) == 1
        assert 'reason="unanswerable"} 4.0' in (await http.get("/metrics")).text
        await again.switch(Path("sorting"), 1, serve=False)
        for user in USERS:
            response = await complete(http, user)
            assert response.headers["x-twinserve-arm"] == before[user]
            assert generation(response) == {"old": 3, "new": 1}[before[user]]


@in_loop
async def test_while_a_generation_is_dead_its_experiment_rests_and_the_others_go_on(caplog: Any) -> None:
    live = await two()
    async with client(live, settings=SETTINGS) as http:
        await begin(http, arms=arms(old=1, new=2))
        await begin(http, name="second", layer="other", arms=arms(a=1, b=1))
        assert (await complete(http, "ann")).headers["x-twinserve-experiment"] == "trial/1"
        live.held[0].engine.failed, live.held[0].engine.ready = True, False
        assert (await complete(http, "ann")).headers["x-twinserve-experiment"] == "second/1"
        assert (await http.get("/ready")).status_code == 200 and "failed, as generation 2" in caplog.text
        assert (await http.delete("/admin/generations/2", headers=ADMIN)).status_code == 200
        await live.switch(Path("sorting.other"), 1, serve=False)
        assert (await complete(http, "ann")).headers["x-twinserve-experiment"] == "trial/1"


@in_loop
async def test_a_number_in_a_change_means_what_it_means_now() -> None:
    live = await two()
    async with client(live, settings=SETTINGS) as http:
        await begin(http, arms=arms(old=1, new=2))
        same = await http.patch(ROOT, json={"experiment": {"arms": arms(old=1, new=2)}}, headers=ADMIN)
        assert same.json()["version"] == 2
        other = await http.patch(ROOT, json={"experiment": {"arms": arms(old=2, new=2)}}, headers=ADMIN)
        assert "'old' can only change its share" in other.json()["error"]["message"]
        unknown = await http.patch(ROOT, json={"experiment": {"arms": arms(old=1, new=9)}}, headers=ADMIN)
        assert "generation 9, and loaded are: 1, 2; load its bundle" in unknown.json()["error"]["message"]


@in_loop
async def test_before_the_first_generation_no_experiment_begins() -> None:
    async with client(stub_live(), settings=SETTINGS) as http:
        body = {"experiment": declared(arms=arms(a=1, b=1))}
        early = await http.post("/v1/admin/experiments", json=body, headers=ADMIN)
        assert (early.status_code, early.json()["error"]["code"]) == (503, "not_ready")
