"""POST /v1/feedback: taken once a key, kept before it is acknowledged, refused in one sentence."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from serve.api.limits import Limits
from serve.api.security import Security
from serve.experiments.memory import Memory
from serve.experiments.records import Feedback, Served
from serve.experiments.store.errors import StoreAwayError, StoreFullError
from serve.serversettings import ServerSettings
from tests.serve.experiments.made import TimedEngine, begin, client, complete
from tests.serve.switching import in_loop

METRICS = [
    {"name": "correct", "kind": "binary"},
    {"name": "stars"},
    {"name": "latency", "direction": "lower"},
]


async def served(http: httpx.AsyncClient) -> str:
    """Begin an experiment and take part; the response's id."""
    await begin(http, metrics=METRICS)
    return str((await complete(http, "ann")).json()["id"])


def give(http: httpx.AsyncClient, response: str, **fields: Any) -> Any:
    return http.post("/v1/feedback", json={"response_id": response, **fields})


def said(memory: Memory) -> list[dict[str, float]]:
    return [one.metrics for one in memory.outcomes("trial")]


@in_loop
async def test_feedback_is_kept_and_a_key_says_one_thing():
    memory = Memory()
    async with client(TimedEngine(), memory) as http:
        response = await served(http)
        taken = await give(http, response, thumbs="down", reward=-0.5, metrics={"correct": False, "stars": 4})
        assert taken.status_code == 200
        assert taken.json() == {
            "object": "feedback", "response_id": response, "key": response, "experiment": "trial",
            "metrics": {"correct": 0.0, "stars": 4.0, "reward": -0.5, "thumbs": 0.0},
        }  # fmt: skip
        await give(http, response, thumbs="up")
        assert said(memory) == [{"thumbs": 1.0}]
        await give(http, response, key="other", metrics={"stars": 1})
        assert said(memory) == [{"thumbs": 1.0}, {"stars": 1.0}]


REFUSED = [
    ({}, "metrics", "Send 'metrics', 'reward' or 'thumbs'"),
    ({"metrics": {}}, "metrics", "Send 'metrics'"),
    ({"metrics": {"stars": "5"}}, "metrics", "the value of 'stars' must be a number"),
    ({"metrics": {"a b": 1}}, "metrics", "a metric's name is up to 64"),
    ({"metrics": {"x" * 65: 1}}, "metrics", "a metric's name is up to 64"),
    ({"metrics": {f"m{i}": 1 for i in range(33)}}, "metrics", "up to 32 metrics, not 33"),
    ({"metrics": {"start": 1}}, "metrics.start", "no metric 'start'; it takes 'correct', 'stars', 'reward'"),
    ({"metrics": {"latency": 1}}, "metrics.latency", "measured here"),
    ({"metrics": {"correct": 0.5}}, "metrics.correct", "binary: 0 or 1"),
    ({"metrics": {"thumbs": 0.5}}, "metrics.thumbs", "'thumbs' is 0 or 1"),
    ({"metrics": {"thumbs": 1}, "thumbs": "up"}, "thumbs", "given twice"),
    ({"thumbs": "sideways"}, "thumbs", "'up' or 'down'"),
    ({"thumbs": "up", "key": ""}, "key", "at least 1"),
    ({"thumbs": "up", "key": "k" * 129}, "key", "at most 128"),
    ({"thumbs": "up", "note": "nice"}, "note", "Unknown field 'note'"),
]


@pytest.mark.parametrize(("fields", "param", "sentence"), REFUSED)
@in_loop
async def test_what_is_refused_and_the_sentence_that_says_why(fields, param, sentence):
    memory = Memory()
    async with client(TimedEngine(), memory) as http:
        refused = await give(http, await served(http), **fields)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, param) and sentence in error["message"]
    assert said(memory) == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
@in_loop
async def test_numbers_that_are_none_are_refused(number):
    memory = Memory()
    async with client(TimedEngine(), memory) as http:
        response = await served(http)
        for fields in ('"reward": ', '"metrics": {"stars": '):
            text = f'{{"response_id": "{response}", {fields}{number}' + "}" * (1 + fields.count("{"))
            refused = await http.post(
                "/v1/feedback", content=text, headers={"content-type": "application/json"}
            )
            assert refused.status_code == 400, refused.text
    assert said(memory) == []


@in_loop
async def test_unknown_responses_are_404():
    async with client(TimedEngine()) as http:
        await begin(http)
        outside = (await complete(http)).json()["id"]
        for response in ("cmpl-none", outside, "\x00", "é"):
            refused = await give(http, response, thumbs="up")
            assert refused.status_code == 404
            assert refused.json()["error"]["code"] == "response_not_found"


@in_loop
async def test_feedback_may_come_before_the_answers_end_and_after_the_experiments():
    memory, engine = Memory(), TimedEngine()
    async with client(engine, memory) as http:
        early = await served(http)
        engine.hold_at = 3
        asking = asyncio.create_task(complete(http, "bob", stream=True))
        await engine.held.wait()
        trials = http._transport.app.state.trials  # type: ignore[attr-defined]
        (under_way,) = trials._under_way
        assert memory.find(under_way) is None
        assert (await give(http, under_way, thumbs="down")).status_code == 200
        engine.release.set()
        await asking
        assert said(memory) == [{"thumbs": 0.0}]
        admin = {"authorization": "Bearer tws-admin"}
        assert (await http.delete("/v1/admin/experiments/trial", headers=admin)).status_code == 200
        assert (await give(http, early, thumbs="up")).status_code == 200


@pytest.mark.parametrize("what", ["find", "put_durably"])
@in_loop
async def test_what_cannot_be_kept_is_not_acknowledged(what):
    class Broken(Memory):
        def find(self, response_id: str) -> Any:
            if what == "find":
                raise StoreAwayError("the database does not answer")
            return super().find(response_id)

        async def put_durably(self, record: Feedback) -> None:
            raise StoreFullError("the disk is full")

    async with client(TimedEngine(), Broken()) as http:
        refused = await give(http, await served(http), thumbs="up")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_kept")
    assert refused.headers["retry-after"]


@in_loop
async def test_feedback_is_let_in_as_every_request_is():
    settings = ServerSettings.model_construct(
        limits=Limits(rates=["3/minute"], body=2000),
        security=Security(api_key=SecretStr("tws-user"), admin_key=SecretStr("tws-admin")),
    )
    async with client(TimedEngine(), settings=settings) as http:
        assert (await give(http, "x", thumbs="up")).status_code == 401
        http.headers["authorization"] = "Bearer tws-user"
        assert (await give(http, "x", key="k" * 3000, thumbs="up")).status_code == 413
        assert [(await give(http, "x", thumbs="up")).status_code for _ in range(3)] == [404, 404, 429]


def test_the_oldest_responses_are_forgotten_with_their_feedback():
    memory = Memory(most=2)
    for i in range(3):
        memory.put(Served(str(i), "trial", 1, "a", "u", None, float(i), {}))
        asyncio.run(memory.put_durably(Feedback(str(i), str(i), float(i), {"x": i})))
    assert memory.find("0") is None
    assert [one.response for one in memory.served("trial")] == ["1", "2"]
    assert [one.response for one in memory.outcomes("trial")] == ["1", "2"]
    assert list(memory.served("trial", version=2)) == list(memory.served("other")) == []
