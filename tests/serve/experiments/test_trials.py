"""Requests that take part: their arm, what is told of it, and the record of what came of it. No model."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from router.policy import Policy
from serve.api import routedtasks
from serve.api.app import create_app
from serve.experiments.assignment import pseudonym
from serve.experiments.memory import Memory
from serve.job import DeadlineError, EngineError
from serve.logs import JsonLines
from serve.serversettings import ServerSettings
from tests.serve.experiments.made import (
    ARMS,
    Clock,
    TimedEngine,
    arms,
    begin,
    client,
    complete,
    experiment,
)
from tests.serve.stub_engine import Connection
from tests.serve.switching import in_loop, until

ONLY_NEW = [{**ARMS[0], "share": 0}, {**ARMS[1], "share": 1}]
ONLY_OLD = [{**ARMS[0], "share": 1}, {**ARMS[1], "share": 0}]


@pytest.fixture
def engine() -> TimedEngine:
    made = TimedEngine()
    made.metrics = CollectorRegistry()  # type: ignore[attr-defined]
    return made


def routing(response: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = response.json()["choices"][0]["routing"]
    return found


@in_loop
async def test_each_user_gets_an_arm_and_headers_and_records_say_which(engine):
    memory = Memory()
    async with client(engine, memory) as http:
        assert (await begin(http)).status_code == 200
        arms = set()
        for user in map(str, range(12)):
            response = await complete(http, user)
            arm = response.headers["x-twinserve-arm"]
            assert response.headers["x-twinserve-experiment"] == "trial/1"
            assert routing(response)["arm"] == arm
            target = engine.requests[-1].target
            assert (target.arm, target.kind) == (arm, "static" if arm == "old" else "dynamic")
            record = memory.find(response.json()["id"])
            assert (record.experiment, record.version, record.arm) == ("trial", 1, arm)
            assert (record.unit, record.generation) == (pseudonym("trial", user), 3)
            await until(lambda record=record: memory.find(record.response).task == "sorting")
            expected = {"latency", "first_token", "completion_tokens", "error"}
            assert set(record.metrics) == expected | ({"abstention"} if arm == "new" else set())
            assert 0 < record.metrics["first_token"] <= record.metrics["latency"] < 10
            assert record.metrics["completion_tokens"] == 4 and record.metrics["error"] == 0
            assert record.moment > Clock().now and "sort" not in record.prompt
            arms.add(arm)
        assert arms == {"old", "new"}


@in_loop
async def test_named_weights_and_mixtures_take_no_part(engine):
    async with client(engine) as http:
        await begin(http, arms=ONLY_OLD)
        asked = [{"model": f"twin:{name}"} for name in ("dynamic", "static", "sorting")] + [{"mixture": {}}]
        for fields in asked:
            response = await complete(http, "ann", **fields)
            assert response.status_code == 200 and "x-twinserve-experiment" not in response.headers
            assert engine.requests[-1].target.arm is None
        (shown,) = (await http.get("/v1/experiments")).json()["data"]
        assert sum(arm["responses"] for arm in shown["arms"]) == 0
        assert (await complete(http, "ann")).headers["x-twinserve-arm"] == "old"


@in_loop
async def test_without_an_id_a_request_takes_no_part_and_is_counted(engine):
    async with client(engine) as http:
        await begin(http)
        for fields in ({}, {"user": ""}, {"headers": {"x-session-id": "s"}}):
            assert "x-twinserve-experiment" not in (await complete(http, **fields)).headers
        told = (await http.get("/metrics")).text
        assert 'twinserve_experiment_passed_total{experiment="trial",reason="no_unit"} 3.0' in told


@in_loop
async def test_who_asks_is_told_by_user_or_safety_identifier_or_session(engine):
    memory = Memory()
    async with client(engine, memory) as http:
        await begin(http)
        for fields, who in (
            ({"user": "ann"}, "ann"),
            ({"safety_identifier": "bob"}, "bob"),
            ({"user": "ann", "safety_identifier": "bob"}, "ann"),
        ):
            response = await complete(http, **fields)
            assert memory.find(response.json()["id"]).unit == pseudonym("trial", who)
        wrong = await complete(http, user=3)
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "user")
        await http.delete("/v1/admin/experiments/trial", headers={"authorization": "Bearer tws-admin"})
        await begin(http, name="sessions", unit="session")
        chat = {"model": "twin", "messages": [{"role": "user", "content": "sort"}]}
        response = await http.post("/v1/chat/completions", json=chat, headers={"x-session-id": "s-1"})
        assert memory.find(response.json()["id"]).unit == pseudonym("sessions", "s-1")


@in_loop
async def test_an_arms_policy_goes_to_the_engine(engine):
    async with client(engine) as http:
        arms = [ONLY_OLD[1], {"name": "blend", "policy": {"top_k": 2, "certain": 1}, "share": 1}]
        await begin(http, arms=arms)
        await complete(http, "ann")
        assert engine.requests[-1].target.policy == Policy(top_k=2, certain=1)


@in_loop
async def test_several_prompts_and_choices_are_one_response_of_one_arm(engine):
    memory = Memory()
    async with client(engine, memory) as http:
        await begin(http, arms=ONLY_NEW, store_prompts=True)
        response = await complete(http, "ann", prompt=["sort a", "sort b"], n=2)
        assert response.headers["x-twinserve-arm"] == "new" and "x-twinserve-mixture" not in response.headers
        (record,) = memory.served("trial")
        assert (record.metrics["completion_tokens"], record.prompt) == (16, "sort a\n\nsort b")


@in_loop
async def test_a_stream_is_recorded_once_it_has_ended(engine):
    memory = Memory()
    async with client(engine, memory) as http:
        await begin(http, arms=ONLY_NEW)
        response = await complete(http, "ann", stream=True)
        assert response.headers["x-twinserve-experiment"] == "trial/1"
        (record,) = memory.served("trial")
        assert record.response in response.text and record.metrics["completion_tokens"] == 4


FAILED = [
    (EngineError("no"), 0, {}, 503),
    (DeadlineError("late"), 0, {}, 504),
    (RuntimeError("bug"), 0, {}, 500),
    (EngineError("no"), 2, {"stream": True}, 200),
]


@pytest.mark.parametrize(("error", "fail_at", "fields", "status"), FAILED)
@in_loop
async def test_failures_of_the_server_count_as_errors_and_nothing_else(
    engine, error, fail_at, fields, status
):
    memory = Memory()
    engine.fail, engine.fail_at = error, fail_at
    async with client(engine, memory) as http:
        await begin(http)
        assert (await complete(http, "ann", **fields)).status_code == status
        (record,) = memory.served("trial")
        assert record.metrics == {"error": 1.0}
        assert 'outcome="failed"} 1.0' in (await http.get("/metrics")).text


@in_loop
async def test_bad_requests_leave_no_record_whichever_arm(engine):
    memory = Memory()
    async with client(engine, memory) as http:
        await begin(http, arms=ONLY_OLD)
        # Of a static arm no route is asked, and yet: what one arm refuses the other must refuse, too.
        refused = await complete(http, "ann", prompt=" ")
        assert refused.status_code == 400 and "no text to route" in refused.json()["error"]["message"]
        assert (await complete(http, "ann", max_tokens=1000)).status_code == 400
        engine.refuse = "not served"
        assert (await complete(http, "ann")).status_code == 400
        assert not list(memory.served("trial"))
        (shown,) = (await http.get("/v1/experiments")).json()["data"]
        assert shown["arms"][0]["units"] == 0


@in_loop
async def test_a_client_that_leaves_is_no_error_and_has_no_latency(engine):
    memory = Memory()
    engine.hold_at = 3
    app = create_app(engine, ServerSettings.model_construct(), memory)
    await app.state.trials.board.start(experiment(arms=ONLY_NEW), "begin")
    body = {"model": "twin", "prompt": "sort", "user": "ann", "stream": True}
    connection = Connection(app, "/v1/completions", body)
    await connection.until(lambda sent: len(sent) > 2)
    connection.cut()
    await connection.task
    (record,) = memory.served("trial")
    assert set(record.metrics) == {"error", "first_token"} and record.metrics["error"] == 0


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    text = io.StringIO()
    handler, logger = logging.StreamHandler(text), logging.getLogger("serve")
    handler.setFormatter(JsonLines())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield text
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_the_log_names_experiment_and_arm_and_nobody(engine, written):
    async def ask() -> None:
        async with client(engine) as http:
            await begin(http, arms=ONLY_OLD)
            await complete(http, "ann-from-accounting")

    asyncio.run(ask())
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    (line,) = [line for line in lines if line.get("path") == "/v1/completions"]
    assert (line["experiment"], line["arm"]) == ("trial/1", "old")
    assert "accounting" not in written.getvalue()


@in_loop
async def test_metrics_count_by_arm_and_tell_a_sample_ratio(engine):
    async with client(engine) as http:
        await begin(http)
        for user in range(40):
            await complete(http, str(user), max_tokens=1)
        told = (await http.get("/metrics")).text
        (shown,) = (await http.get("/v1/experiments")).json()["data"]
    counts = {arm["name"]: arm["units"] for arm in shown["arms"]}
    assert sum(counts.values()) == 40
    for arm, count in counts.items():
        labels = f'arm="{arm}",experiment="trial"'
        assert f'requests_total{{{labels},outcome="finished"}} {count}.0' in told
        assert f"twinserve_experiment_latency_seconds_count{{{labels}}} {count}.0" in told
        assert f'twinserve_experiment_units{{arm="{arm}",experiment="trial"}} {count}.0' in told
    (ratio,) = [line for line in told.splitlines() if line.startswith("twinserve_experiment_srm{")]
    assert float(ratio.split()[1]) == pytest.approx(shown["srm"]["p_value"]) and not shown["srm"]["alarm"]


@in_loop
async def test_what_time_has_changed_is_kept_without_anybody_waiting(engine):
    memory = Memory()
    clock = Clock()
    app = create_app(engine, ServerSettings.model_construct(), memory)
    board = app.state.trials.board
    board._clock = clock
    await board.start(
        experiment(arms=ONLY_NEW).model_copy(update={"stop": datetime.fromtimestamp(clock.now + 10, UTC)}),
        "begin",
    )
    clock.now += 11
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://twin") as http:
        assert "x-twinserve-experiment" not in (await complete(http, "ann")).headers
    await until(lambda: [one.state for one in memory.experiments()] == ["stopped"])


@in_loop
async def test_the_router_is_asked_for_arms_that_do_not_ask_it(engine):
    """In the background, with what it reads alone, and whether it knows before or after the answer ends."""
    memory = Memory()
    async with client(engine, memory) as http:
        await begin(http, arms=ONLY_OLD)
        for prompt, stream in (("sort these", False), ("sort those", True)):
            response = await complete(http, "ann", prompt=prompt, stream=stream)
            assert response.headers["x-twinserve-arm"] == "old"
        await until(lambda: [one.task for one in memory.served("trial")] == ["sorting"] * 2)
        asked = [request for request in engine.requests if request.background]
        assert [one.turns for one in asked] == [("sort these",), ("sort those",)]
        assert {(one.target.kind, len(one.prompt), one.params.max_tokens) for one in asked} == {
            ("dynamic", 1, 0)
        }


@in_loop
async def test_nobody_asks_the_router_where_no_arm_does(engine):
    memory = Memory()
    async with client(engine, memory) as http:
        await begin(http, arms=arms(a=0.5, b=0.5))
        for user in "abcdef":
            await complete(http, user)
        assert not any(request.background for request in engine.requests)
        assert {one.task for one in memory.served("trial")} == {None}


@in_loop
async def test_a_router_that_has_no_time_leaves_the_task_unknown(engine, monkeypatch):
    memory = Memory()
    monkeypatch.setattr(routedtasks, "MOST", 1)
    gate, stream = asyncio.Event(), engine.stream

    async def late(request):
        if request.background:
            await gate.wait()
            raise DeadlineError("late")
        async for event in stream(request):
            yield event

    engine.stream = late
    async with client(engine, memory) as http:
        await begin(http, arms=ONLY_OLD)
        for user in "abc":
            assert (await complete(http, user)).status_code == 200
        gate.set()
        await asyncio.sleep(0.05)
        assert [one.task for one in memory.served("trial")] == [None] * 3
        engine.stream = stream
        await complete(http, "ann")
        await until(lambda: list(memory.served("trial"))[-1].task == "sorting")
