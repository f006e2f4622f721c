"""A canary on an endpoint: requests, its own lifespan, and what everybody is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from serve.api.app import create_app
from serve.api.security import Security
from serve.experiments import canaries
from serve.experiments.memory import Memory
from serve.experiments.store.store import Store
from serve.job import EngineError
from serve.request import Event, GenerationRequest
from serve.serversettings import ServerSettings
from tests.serve.experiments.made import ADMIN, ARMS, TimedEngine, begin, complete
from tests.serve.switching import in_loop

STEPS = [0.2, 0.5, 0.8]
RAMP = {
    "arms": [{**ARMS[0], "share": 1}, {**ARMS[1], "share": 0}],
    "canary": {"arm": "new", "steps": STEPS, "minutes": 0.001, "units": 3},
}
ROUTE = "/v1/admin/experiments/trial"
NUMBERS = count()


class Failing(TimedEngine):
    """The routed arm fails as long as it is broken."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.metrics = CollectorRegistry()
        self.broken = broken

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Event]:
        if self.broken and request.target.kind == "dynamic":
            raise EngineError("out of memory")
        async for event in super().stream(request):
            yield event


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "LOOK", 0.01)
    monkeypatch.setattr(canaries, "PATIENCE", 0.0)


@asynccontextmanager
async def served(engine: TimedEngine, storage: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app that has started, and ends with the context."""
    settings = ServerSettings.model_construct(security=Security(admin_key=SecretStr("tws-admin")))
    app = create_app(engine, settings, storage)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://twin") as http:
            yield http


async def state(http: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get(ROUTE, headers=ADMIN)).json()
    return found


async def until_version(http: httpx.AsyncClient, version: int) -> dict[str, Any]:
    """Users come, each new, until there is that version."""
    for _ in range(2000):
        if (now := await state(http))["version"] >= version:
            return now
        await complete(http, f"user {next(NUMBERS)}", max_tokens=1)
    raise AssertionError("waited in vain")


def shares(now: dict[str, Any]) -> list[float]:
    return [arm["share"] for arm in now["experiment"]["arms"]]


@in_loop
async def test_a_good_arm_goes_to_its_last_step_and_everybody_is_told_where_it_is():
    memory = Memory()
    async with served(Failing(), memory) as http:
        begun = (await begin(http, **RAMP)).json()
        assert shares(begun) == [0.8, 0.2] and begun["canary"].startswith("canary: new at 20 % since ")
        assert "next 50 % not before" in begun["canary"]
        end = await until_version(http, 3)
        assert shares(end) == pytest.approx([0.2, 0.8]) and end["canary"].endswith("no step is left")
        assert end["reason"].startswith("canary: new from 50 % to 80 % (3 of 3): no guardrail broken after ")
        report = (await http.get("/v1/experiments/trial")).json()
        (listed,) = (await http.get("/v1/experiments")).json()["data"]
        assert report["canary"] == listed["canary"] == end["canary"]
        for _ in range(20):
            await complete(http, f"user {next(NUMBERS)}")
        await asyncio.sleep(0.1)
        assert (await state(http))["version"] == 3
        metrics = (await http.get("/metrics")).text
    assert 'twinserve_experiment_canary_share{experiment="trial"} 0.8' in metrics
    assert 'twinserve_experiment_canary_moves_total{experiment="trial",move="step"} 2.0' in metrics
    assert [_share(change) for change in memory.history("trial")] == pytest.approx(STEPS)


@in_loop
async def test_an_arm_that_fails_is_taken_back_and_goes_on_once_it_is_mended_and_given_a_share():
    memory, engine = Memory(), Failing(broken=True)
    async with served(engine, memory) as http:
        await begin(http, **RAMP)
        back = await until_version(http, 2)
        failed = [record for record in memory.served("trial") if record.metrics["error"]]
        assert {record.arm for record in failed} == {"new"} and 3 <= len(failed) <= 5
        assert (back["state"], shares(back)) == ("running", [1.0, 0.0])
        assert back["reason"].startswith("canary: new rolled back from 20 %: of ")
        assert "users whose requests failed on the server's side" in back["reason"]
        assert back["canary"].startswith("canary: new at 0 % since ") and "rolled back" in back["canary"]
        assert memory.history("trial")[-1].reason == back["reason"]
        for _ in range(20):
            assert (await complete(http, f"user {next(NUMBERS)}")).status_code == 200
        assert (await state(http))["version"] == 2
        engine.broken = False
        body = {"shares": {"old": 0.9, "new": 0.1}, "reason": "mended"}
        assert (await http.patch(ROUTE, json=body, headers=ADMIN)).json()["version"] == 3
        resumed = await until_version(http, 4)
        assert shares(resumed) == pytest.approx([0.8, 0.2])
        metrics = (await http.get("/metrics")).text
    assert 'twinserve_experiment_canary_moves_total{experiment="trial",move="rollback"} 1.0' in metrics


@in_loop
async def test_after_a_restart_it_goes_on_where_it_was(tmp_path: Path):
    def opened() -> Store:
        return Store.open(f"sqlite:///{tmp_path / 'e.db'}", tmp_path / "spool")

    store = opened()
    async with served(Failing(), store) as http:
        await begin(http, **RAMP)
        await until_version(http, 2)
    store.close()
    store = opened()
    try:
        async with served(Failing(), store) as http:
            before = await state(http)
            assert before["version"] >= 2 and shares(before)[1] >= 0.5
            await until_version(http, 3)
        assert [_share(change) for change in store.history("trial")] == pytest.approx(STEPS)
    finally:
        store.close()


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"arms": ARMS}, "arm 'new': it is declared with the share 0.5 and begins, as a canary, with 0.2"),
        ({"control": "new"}, "canary.arm: 'new' is the control"),
        ({"metrics": [{"name": "correct"}]}, "canary: no metric has a guardrail"),
    ],
)
@in_loop
async def test_what_contradicts_itself_is_refused_in_one_sentence(keys, sentence):
    async with served(Failing(), Memory()) as http:
        refused = await begin(http, **{**RAMP, **keys})
        assert refused.status_code == 400 and sentence in refused.json()["error"]["message"]


def _share(change: Any) -> float:
    return next(arm["share"] for arm in json.loads(change.definition)["arms"] if arm["name"] == "new")
