"""A bounded queue: exactly so many come in, whatever ends them frees their places, the rest hear when to
come again."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from compress.errors import InputError
from serve.api.admission import LONGEST, Admission
from serve.api.app import create_app
from serve.api.drain import DrainRate
from serve.api.errors import ApiError
from serve.api.gatemetrics import GateMetrics
from serve.api.limits import Limits
from serve.job import DeadlineError, EngineError
from serve.serversettings import ServerSettings
from tests.serve.server import serving
from tests.serve.stub_engine import Connection, StubEngine, ask

PROMPT = {"model": "twin", "prompt": "sort these"}
CHAT = {"model": "twin", "messages": [{"role": "user", "content": "sort these"}]}
PATHS = {"/v1/completions": PROMPT, "/v1/chat/completions": CHAT}


def settings(slots: int = 1, **limits: Any) -> ServerSettings:
    return ServerSettings(slots=slots, limits=Limits(**limits))


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://twin")


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("stream", [False, True])
def test_of_fifty_at_once_exactly_as_many_as_there_is_room_for_come_in(stream: bool) -> None:
    engine = StubEngine()
    engine.hold_at = 0
    app = create_app(engine, settings(slots=2, queue=5))

    async def run() -> list[httpx.Response]:
        async with client_of(app) as client:
            asked = [
                asyncio.create_task(client.post("/v1/completions", json=PROMPT | {"stream": stream}))
                for _ in range(50)
            ]
            await until(lambda: sum(task.done() for task in asked) == 43)
            await until(lambda: engine.running == 7)
            assert app.state.gate_metrics.admitted == 7
            engine.release.set()
            return await asyncio.gather(*asked)

    answers = asyncio.run(run())
    refused = [answer for answer in answers if answer.status_code != 200]
    assert (len(refused), engine.peak, len(engine.requests)) == (43, 7, 7)
    assert app.state.gate_metrics.admitted == 0
    assert app.state.gate_metrics.refused["queue"] == 43
    for answer in refused:
        assert answer.status_code == 429
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
        assert 1 <= int(answer.headers["retry-after"]) <= LONGEST


def test_each_prompt_and_each_choice_counts() -> None:
    engine = StubEngine()
    engine.hold_at = 0
    app = create_app(engine, settings(slots=1, queue=5))

    async def run() -> None:
        async with client_of(app) as client:
            four = asyncio.create_task(
                client.post("/v1/completions", json=PROMPT | {"prompt": ["a", "b"], "n": 2})
            )
            await until(lambda: engine.running == 4)
            assert (await client.post("/v1/chat/completions", json=CHAT | {"n": 3})).status_code == 429
            two = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT | {"n": 2}))
            await until(lambda: engine.running == 6)
            assert (await client.post("/v1/route", json={"input": "a"})).status_code == 429
            engine.release.set()
            assert {(await four).status_code, (await two).status_code} == {200}

    asyncio.run(run())
    assert app.state.gate_metrics.admitted == 0


def test_what_would_never_fit_is_a_400_instead() -> None:
    for limits in ({"queue": 2}, {"answers": 3}, {"concurrency": 3}):
        engine = StubEngine()
        body = PROMPT | {"prompt": ["a", "b"], "n": 2}
        response = ask(engine, "/v1/completions", body, settings=settings(slots=1, **limits))
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "too_many_answers")
        assert "4 answers" in error["message"] and " 3 are" in error["message"]
        assert engine.requests == []


ENDINGS = [
    "answered", "streamed", "left waiting", "left streaming", "cancelled", "bad prompt", "too long",
    "unknown model", "engine refuses", "engine fails", "fails in a stream", "too late", "bug",
    "no json", "bad timeout", "queue full", "too many", "body too large",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_whatever_ends_a_request_its_places_are_free_again(ending: str, path: str) -> None:
    engine = StubEngine()
    app = create_app(engine, settings(slots=2, queue=2, body=4096))
    body: Any = PATHS[path] | {"n": 2}
    field = "prompt" if path == "/v1/completions" else "messages"
    headers = {}
    status = {
        "bad prompt": 400, "too long": 400, "unknown model": 404, "engine refuses": 400, "engine fails": 503,
        "too late": 504, "bug": 500, "no json": 400, "bad timeout": 400, "queue full": 429, "too many": 400,
        "body too large": 413,
    }.get(ending, 200)  # fmt: skip
    failures = {
        "engine fails": EngineError("no"), "fails in a stream": InputError("no"),
        "too late": DeadlineError("late"), "bug": RuntimeError("bug"),
    }  # fmt: skip
    engine.fail = failures.get(ending)
    engine.fail_at = 2 if ending == "fails in a stream" else 0
    if ending in ("streamed", "left streaming", "fails in a stream"):
        body["stream"] = True
    if ending in ("left waiting", "left streaming", "cancelled"):
        engine.hold_at = 2 if ending == "left streaming" else 0
    if ending == "bad prompt":
        body[field] = ["a", ""] if field == "prompt" else [{"role": "assistant", "content": "a"}]
    if ending == "too long":
        body |= {"max_tokens": 1000}
    if ending == "unknown model":
        body["model"] = "gpt"
    if ending == "engine refuses":
        engine.refuse = "no"
    if ending == "no json":
        body = "no object"
    if ending == "bad timeout":
        headers["x-request-timeout"] = "soon"
    if ending == "too many":
        body["n"] = 5
    if ending == "body too large":
        body["user"] = "a" * 5000
    admission = app.state.gate_metrics
    if ending == "queue full":
        admission.admitted = 3

    async def run() -> list[Any]:
        connection = Connection(app, path, body, headers)
        if ending in ("left waiting", "left streaming", "cancelled"):
            await engine.held.wait()
            assert admission.admitted == 2
            if ending == "cancelled":
                connection.task.cancel()
            else:
                connection.cut()
        await asyncio.gather(connection.task, return_exceptions=True)
        return connection.sent

    sent = asyncio.run(asyncio.wait_for(run(), 10))
    if ending not in ("left waiting", "cancelled"):
        assert sent[0]["status"] == status
    assert admission.admitted == (3 if ending == "queue full" else 0)
    assert engine.running == 0
    if ending != "queue full":
        engine.fail = engine.hold_at = engine.refuse = None
        assert json.loads(asyncio.run(_again(app)))["choices"]


async def _again(app: FastAPI) -> str:
    async with client_of(app) as client:
        return (await client.post("/v1/completions", json=PROMPT | {"n": 4})).text


class Remote(StubEngine):
    """One that another thread can release."""

    async def stream(self, request: Any) -> Any:
        self.loop = asyncio.get_running_loop()
        async for event in super().stream(request):
            yield event


def test_the_official_client_waits_as_told_and_comes_again() -> None:
    engine = Remote()
    engine.hold_at = 0

    def ask_once(address: str, retries: int) -> Any:
        with openai.OpenAI(base_url=address, api_key="none", max_retries=retries, timeout=20) as client:
            return client.completions.create(model="twin", prompt="a").choices[0].text

    with serving(engine, settings(queue=0)) as address, ThreadPoolExecutor(2) as threads:
        first = threads.submit(ask_once, address, 0)
        asyncio.run(until(lambda: engine.running == 1))
        with pytest.raises(openai.RateLimitError) as refused:
            ask_once(address, 0)
        assert refused.value.code == "queue_full"
        assert refused.value.response.headers["retry-after"] == "1"
        second = threads.submit(ask_once, address, 1)
        time.sleep(0.3)  # it is refused once, and told to come again in a second
        engine.hold_at = None
        engine.loop.call_soon_threadsafe(engine.release.set)
        assert first.result() == second.result() == "one two three four"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_drain_rate_is_that_of_busy_time() -> None:
    clock = Clock()
    drain = DrainRate(clock)
    assert drain.seconds(5) is None
    for _ in range(10):  # two answers in each of ten busy seconds, and long pauses
        drain.begin()
        clock.now += 1
        drain.finish(2, last=True)
        clock.now += 1000
    assert drain.seconds(20) == pytest.approx(10, rel=0.05)
    for _ in range(300):  # it follows when the engine becomes slower
        drain.begin()
        clock.now += 1
        drain.finish(1, last=True)
    assert drain.seconds(20) == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize(("rate", "expected"), [(1, 8), (4, 2), (100, 1), (0.01, 60)])
def test_retry_after_is_the_time_that_the_waiting_will_take(rate: float, expected: int) -> None:
    clock = Clock()
    admission = Admission(Limits(queue=8), 2, GateMetrics(), clock)
    for _ in range(200):
        admission.enter("a", 1)
        clock.now += 1 / rate
        admission.leave("a", 1)
    admission.enter("a", 10)
    with pytest.raises(ApiError) as refused:
        admission.enter("b", 1)
    assert abs(int(refused.value.headers["Retry-After"]) - expected) <= (expected == 8)
    admission.leave("a", 10)
    admission.enter("b", 10)


def test_one_caller_may_only_have_so_many_answers_in_the_making() -> None:
    admission = Admission(Limits(queue=8, concurrency=3), 2, GateMetrics())
    admission.enter("a", 2)
    with pytest.raises(ApiError, match="2 answers in the making, and 3 are") as refused:
        admission.enter("a", 2)
    assert (refused.value.status, refused.value.code) == (429, "concurrency_limit_exceeded")
    admission.enter("b", 3)
    admission.leave("a", 2)
    admission.enter("a", 3)
    admission.leave("a", 3)
    admission.leave("b", 3)
    assert admission.callers == {} and admission.metrics.admitted == 0


def test_refusals_are_counted_by_reason_in_the_metrics() -> None:
    from prometheus_client import CollectorRegistry

    engine = StubEngine()
    engine.metrics = CollectorRegistry()
    app = create_app(engine, settings(queue=0, prompt_tokens=5, rates=["9/hour"], body=1000))

    async def run() -> str:
        async with client_of(app) as client:
            for body, status in (
                (PROMPT | {"n": 2}, 400), (PROMPT, 400), (PROMPT | {"prompt": "abc"}, 200),
                (PROMPT | {"user": "a" * 2000}, 413), *[(PROMPT | {"prompt": "abc"}, 200)] * 5,
                (PROMPT, 429), (PROMPT, 429),
            ):  # fmt: skip
                assert (await client.post("/v1/completions", json=body)).status_code == status
            return (await client.get("/metrics")).text

    counts = {
        sample.labels.get("reason", sample.name): sample.value
        for family in text_string_to_metric_families(asyncio.run(run()))
        for sample in family.samples
    }
    assert counts["twinserve_admitted_answers"] == counts["twinserve_stalled_readers_total"] == 0
    expected = {
        "answers": 1,
        "prompt_tokens": 1,
        "body": 1,
        "rate": 2,
        "queue": 0,
        "key": 0,
        "concurrency": 0,
    }
    assert {reason: counts[reason] for reason in expected} == expected
