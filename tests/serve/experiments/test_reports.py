"""GET /v1/experiments/NAME and its events: what the store's records say, made no oftener than it pays."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from serve.api import reports
from serve.api.reports import Reports
from serve.experiments.memory import Memory
from serve.experiments.store.errors import StoreAwayError
from serve.experiments.store.store import Store
from tests.serve.experiments.made import Clock, TimedEngine, begin, client, complete
from tests.serve.switching import in_loop


@in_loop
async def test_a_report_tells_of_arms_and_decides_in_words():
    async with client(TimedEngine(), Memory()) as http:
        await begin(http)
        for number in range(8):
            response = (await complete(http, f"user {number}")).json()["id"]
            await http.post("/v1/feedback", json={"response_id": response, "metrics": {"correct": True}})
        report = (await http.get("/v1/experiments/trial")).json()
    assert (report["name"], report["version"], report["state"]) == ("trial", 1, "running")
    assert sum(arm["responses"] for arm in report["arms"]) == 8
    assert {metric["name"] for metric in report["metrics"]} == {"correct", "latency"}
    assert isinstance(report["decision"], str) and report["decision"]


@in_loop
async def test_the_store_on_disk_reports_the_same(tmp_path: Path):
    store = Store.open(f"sqlite:///{tmp_path / 'e.db'}", tmp_path / "spool")
    engine = TimedEngine()
    engine.metrics = CollectorRegistry()
    try:
        async with client(engine, store) as http:
            await begin(http)
            await complete(http, "ann")
            assert await asyncio.to_thread(store.flush, 10)
            report = (await http.get("/v1/experiments/trial")).json()
            assert sum(arm["responses"] for arm in report["arms"]) == 1
            metrics = (await http.get("/metrics")).text
            assert "twinserve_experiment_records_delivered_total 1.0" in metrics
    finally:
        store.close()


@in_loop
async def test_unknown_experiments_are_not_found_and_a_store_that_is_away_is_503(monkeypatch):
    memory = Memory()
    async with client(TimedEngine(), memory) as http:
        for path in ("trial", "trial/events"):
            refused = await http.get(f"/v1/experiments/{path}")
            assert refused.status_code == 404 and refused.json()["error"]["code"] == "experiment_not_found"
        await begin(http)

        def away(_):
            raise StoreAwayError("no route")

        monkeypatch.setattr(memory, "history", away)
        refused = await http.get("/v1/experiments/trial")
        assert refused.status_code == 503 and "retry-after" in refused.headers
        assert "does not answer" in refused.json()["error"]["message"]


@in_loop
async def test_a_definition_on_its_way_to_the_database_is_told_without_figures(monkeypatch):
    memory = Memory()
    async with client(TimedEngine(), memory) as http:
        await begin(http)
        monkeypatch.setattr(memory, "history", lambda _: [])
        told = (await http.get("/v1/experiments/trial")).json()
    assert told["name"] == "trial" and [arm["units"] for arm in told["arms"]] == [0, 0]


@in_loop
async def test_events_come_when_there_is_something_new_and_end_with_the_server(monkeypatch):
    monkeypatch.setattr(reports, "LOOK", 0.01)
    monkeypatch.setattr(reports, "FRESH", 0.0)
    monkeypatch.setattr(reports, "PATIENCE", 0.0)
    engine = TimedEngine()
    async with client(engine, Memory()) as http:
        await begin(http)

        async def visit():
            await asyncio.sleep(0.3)
            await complete(http, "ann")
            await asyncio.sleep(0.3)
            engine.ready = False

        visiting = asyncio.create_task(visit())
        stream = await http.get("/v1/experiments/trial/events")
        await visiting
    assert stream.headers["content-type"].startswith("text/event-stream")
    events = [event for event in stream.text.split("\n\n") if event]
    shown = [json.loads(event.split("data: ", 1)[1]) for event in events]
    assert all(event.startswith("event: report\n") for event in events)
    assert [sum(arm["responses"] for arm in report["arms"]) for report in shown] == [0, 1]


@in_loop
async def test_a_report_is_made_once_for_all_who_ask_and_again_when_it_is_old(monkeypatch):
    clock, made = Clock(), []

    def report(_, name):
        clock.now += 1
        made.append((name, threading.current_thread() is threading.main_thread()))
        return len(made)

    monkeypatch.setattr(Reports, "_report", report)
    kept = Reports(Memory(), clock)
    assert await asyncio.gather(*(kept.get("a") for _ in range(5))) == [1] * 5
    clock.now += 19
    assert await kept.get("a") == 1 and await kept.get("b") == 2
    clock.now += 1.5
    assert await kept.get("a") == 3
    assert made == [("a", False), ("b", False), ("a", False)]


@pytest.mark.parametrize("has_admin_key", [True, False])
def test_a_store_is_opened_where_an_experiment_can_begin(tmp_path, has_admin_key, monkeypatch):
    from pydantic import SecretStr

    from serve.api.security import Security
    from serve.experimentstorage import open_storage
    from serve.serversettings import ServerSettings

    monkeypatch.chdir(tmp_path)
    security = Security(admin_key=SecretStr("tws-admin")) if has_admin_key else Security()
    storage = open_storage(ServerSettings.model_construct(security=security))
    assert (storage is not None) is has_admin_key is (tmp_path / "state" / "experiments.db").is_file()
    if storage is not None:
        storage.close()
