"""Shadows: another arm answers, too, and the client never knows. No model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from serve.api.app import create_app
from serve.experiments.memory import Memory
from serve.job import DeadlineError, DisplacedError, EngineError
from serve.request import Event, GenerationRequest
from serve.serversettings import ServerSettings
from tests.serve.experiments.made import TimedEngine, begin, client, complete, experiment
from tests.serve.stub_engine import Connection
from tests.serve.switching import in_loop, until

ARMS = [{"name": "old", "model": "static", "share": 1}, {"name": "new", "share": 0}]
SHADOW = {"arm": "new"}


def shadow(request: GenerationRequest) -> bool:
    """Whether it is one, and not a question of the router alone."""
    return request.background and request.params.max_tokens > 0


class TwoFaced(TimedEngine):
    """Answers in front as any stub; behind, with ``other`` at the end, once ``behind`` is set, or with
    ``trouble``."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics = CollectorRegistry()
        self.other, self.trouble = "", None
        self.behind = asyncio.Event()
        self.behind.set()

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Event]:
        if shadow(request):
            await self.behind.wait()
            if self.trouble is not None:
                raise self.trouble
        async for event in super().stream(request):
            yield event
            if request.background and event.finish_reason is None and request.times is not None:
                request.times.working += 0.125
        if shadow(request) and self.other:
            yield Event(self.other, (9,), self._routing(request), "stop")


@pytest.fixture
def engine() -> TwoFaced:
    return TwoFaced()


def outcomes(told: str) -> dict[str, float]:
    start = 'twinserve_experiment_shadows_total{experiment="trial",outcome="'
    rows = [line.removeprefix(start).split('"} ') for line in told.splitlines() if line.startswith(start)]
    return {name: float(count) for name, count in rows}


async def seen(http: Any) -> dict[str, float]:
    return outcomes((await http.get("/metrics")).text)


async def both(memory: Memory) -> tuple[Any, Any]:
    """The record of what a client saw, and of what it did not."""
    await until(lambda: len(list(memory.served("trial"))) == 2)
    front, behind = sorted(memory.served("trial"), key=lambda one: one.shadow)
    return front, behind


@pytest.mark.parametrize("stream", [False, True])
@in_loop
async def test_both_texts_are_kept_with_what_they_took_and_whether_they_agree(engine, stream):
    memory = Memory()
    async with client(engine, memory) as http:
        await begin(http, arms=ARMS, shadow=SHADOW)
        response = await complete(http, "ann", stream=stream)
        front, behind = await both(memory)
        assert (front.arm, front.shadow, front.beside, front.text) == (
            "old",
            False,
            None,
            "one two three four",
        )
        assert (behind.arm, behind.beside, behind.text) == ("new", front.response, front.text)
        assert (behind.unit, behind.version, behind.task) == (front.unit, 1, "sorting")
        assert behind.metrics == {"error": 0, "agreement": 1, "latency": 0.5, "completion_tokens": 4}
        assert behind.prompt == front.prompt and "sort" not in behind.prompt
        assert "new" not in response.text and response.headers["x-twinserve-arm"] == "old"
        asked = [(r.target.kind, r.background) for r in engine.requests if r.params.max_tokens]
        assert sorted(asked) == [("dynamic", True), ("static", False)]
        assert await seen(http) == {"finished": 1}


@in_loop
async def test_another_text_does_not_agree(engine):
    memory = Memory()
    engine.other = " five"
    async with client(engine, memory) as http:
        await begin(http, arms=ARMS, shadow=SHADOW, store_prompts=True)
        await complete(http, "ann")
        front, behind = await both(memory)
        assert behind.text == front.text + " five" and behind.metrics["agreement"] == 0
        assert front.prompt == behind.prompt == "sort these"


@in_loop
async def test_only_the_shadowed_arms_requests_of_one_answer_get_one(engine):
    memory = Memory()
    async with client(engine, memory) as http:
        await begin(http, arms=[ARMS[0] | {"share": 0}, ARMS[1] | {"share": 1}], shadow={"arm": "old"})
        await complete(http, "ann", n=2)
        await complete(http, "ann", prompt=["sort a", "sort b"])
        await complete(http, "ann", max_tokens=0, echo=True)
        await complete(http, "ann", model="twin:static")
        await complete(http, None)
        assert not any(request.background for request in engine.requests)
        assert not any(record.text for record in memory.served("trial")), "texts are kept of pairs alone"
        await complete(http, "ann")
        await both_of(memory, 5)
        assert sum(map(shadow, engine.requests)) == 1


async def both_of(memory: Memory, count: int) -> None:
    await until(lambda: len(list(memory.served("trial"))) == count)


@in_loop
async def test_a_share_of_the_requests_gets_one(engine):
    async with client(engine) as http:
        await begin(http, arms=ARMS, shadow=SHADOW | {"share": 0.3, "most": 100})
        for user in range(200):
            await complete(http, str(user), max_tokens=1)
        await until(lambda: engine.running == 0)
        assert 30 < sum(map(shadow, engine.requests)) < 90


@in_loop
async def test_no_more_than_so_many_are_under_way(engine):
    engine.behind.clear()
    memory = Memory()
    async with client(engine, memory) as http:
        await begin(http, arms=ARMS, shadow=SHADOW | {"most": 2})
        for user in range(5):
            assert (await complete(http, str(user))).status_code == 200
        assert await seen(http) == {"busy": 3}
        engine.behind.set()
        await both_of(memory, 7)
        assert await seen(http) == {"busy": 3, "finished": 2}
        await complete(http, "later")
        await both_of(memory, 9)


TROUBLE = [
    (DeadlineError("late"), "late", False),
    (DisplacedError("others"), "displaced", False),
    (EngineError("broken"), "failed", True),
    (RuntimeError("bug"), "failed", True),
]


@pytest.mark.parametrize(("trouble", "outcome", "kept"), TROUBLE)
@in_loop
async def test_what_goes_wrong_behind_is_not_seen_in_front(engine, trouble, outcome, kept):
    memory = Memory()
    engine.trouble = trouble
    async with client(engine, memory) as http:
        await begin(http, arms=ARMS, shadow=SHADOW)
        assert (await complete(http, "ann")).json()["choices"][0]["text"] == "one two three four"
        await asyncio.sleep(0.05)
        assert await seen(http) == {outcome: 1}
        records = [one for one in memory.served("trial") if one.shadow]
        assert [one.metrics for one in records] == [{"error": 1}] * kept


@in_loop
async def test_while_the_engine_ends_nothing_is_blamed_on_the_arm(engine):
    memory = Memory()
    engine.behind.clear()
    async with client(engine, memory) as http:
        await begin(http, arms=ARMS, shadow=SHADOW)
        await complete(http, "ann")
        engine.ready, engine.trouble = False, EngineError("the engine was stopped")
        engine.behind.set()
        await asyncio.sleep(0.05)
        assert await seen(http) == {"stopped": 1}
        assert not any(one.shadow for one in memory.served("trial"))


@in_loop
async def test_who_leaves_takes_the_shadow_along(engine):
    memory = Memory()
    engine.behind.clear()
    engine.hold_at = 3
    app = create_app(engine, ServerSettings.model_construct(), memory)
    await app.state.trials.board.start(experiment(arms=ARMS, shadow=SHADOW), "begin")
    body = {"model": "twin", "prompt": "sort", "user": "ann", "stream": True}
    connection = Connection(app, "/v1/completions", body)
    await connection.until(lambda sent: len(sent) > 2)
    connection.cut()
    await connection.task
    await until(lambda: not app.state.trials.shadows._running["trial"])
    (record,) = memory.served("trial")
    assert not record.shadow and record.text is None


@in_loop
async def test_nobody_can_have_an_opinion_of_a_shadow(engine):
    memory = Memory()
    async with client(engine, memory) as http:
        await begin(http, arms=ARMS, shadow=SHADOW)
        await complete(http, "ann")
        _, behind = await both(memory)
        said = {"response_id": behind.response, "metrics": {"correct": 1}}
        assert (await http.post("/v1/feedback", json=said)).status_code == 404
