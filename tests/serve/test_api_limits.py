"""Limits of one request and of one caller: rates, bodies, prompts, time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serve.api import rates
from serve.api.app import create_app
from serve.api.gate import _address
from serve.api.limits import Limits
from serve.api.rates import Rates
from serve.serversettings import ServerSettings
from tests.serve.stub_engine import Connection, StubEngine, ask

PROMPT = {"model": "twin", "prompt": "sort these"}
CHAT = {"model": "twin", "messages": [{"role": "user", "content": "sort these"}]}


def settings(**limits: Any) -> ServerSettings:
    return ServerSettings(limits=Limits(**limits))


def test_headers_tell_what_is_left_of_the_tightest_rate() -> None:
    app = create_app(StubEngine(), settings(rates=["3/day", "100/minute"]))

    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://twin") as client:
            answers = [
                await client.post("/v1/completions", json=PROMPT | {"stream": i == 1}) for i in range(5)
            ]
            assert (await client.get("/health")).status_code == 200
            return answers

    answers = asyncio.run(run())
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    left = [answer.headers["x-ratelimit-remaining-requests"] for answer in answers]
    assert left == ["2", "1", "0", "0", "0"]
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"3"}
    error = answers[-1].json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "3 requests in 86400 seconds" in error["message"]
    assert 86300 < int(answers[-1].headers["retry-after"]) <= 86400


def test_without_rates_there_are_no_such_headers() -> None:
    response = ask(StubEngine(), "/v1/completions", PROMPT)
    assert not [name for name in response.headers if name.startswith("x-ratelimit")]


def test_callers_do_not_share_a_rate_and_a_refused_request_does_not_count() -> None:
    taken = Rates(["1/day", "3/day"])
    for caller in ("a", "b"):
        assert taken.take(caller)["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(Exception, match="More than 1 requests"):
            taken.take(caller)
    wide = taken._items[1]
    assert taken._limiter.get_window_stats(wide, "a").remaining == 2


def test_callers_who_are_away_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "FEW_CALLERS", 10)
    taken = Rates(["1/second"])
    for caller in range(9):
        taken.take(str(caller))
    deadline = time.monotonic() + 10
    while any(taken._storage.events.values()) and time.monotonic() < deadline:
        time.sleep(0.05)
        taken._storage.incr("wakes the library's own clock", 1)
    for caller in range(100, 103):
        taken.take(str(caller))
    assert len(taken._storage.events) < 9


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("testclient", "other", False),
    ],
)
def test_an_address_stands_for_a_caller(one: str, other: str, same: bool) -> None:
    first, second = (_address({"client": (host, 1)}) for host in (one, other))
    assert (first == second) == same


@pytest.mark.parametrize("rate", ["fast", "5/fortnight", "", "-1/minute"])
def test_a_wrong_rate_is_named(rate: str) -> None:
    with pytest.raises(ValueError, match="is no rate; write it as"):
        Limits(rates=[rate])


def pieces(size: int, count: int, seen: list[int]) -> AsyncIterator[bytes]:
    async def body() -> AsyncIterator[bytes]:
        for number in range(count):
            seen.append(number)
            yield b" " * size

    return body()


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/route"])
def test_a_body_that_is_too_large_is_refused_before_it_is_read_to_its_end(path: str) -> None:
    headers = {"content-type": "application/json"}
    seen: list[int] = []
    chunked = ask(
        StubEngine(), path, content=pieces(100, 50, seen), headers=headers, settings=settings(body=1000)
    )
    announced = ask(StubEngine(), path, content=b" " * 1001, headers=headers, settings=settings(body=1000))
    for response in (chunked, announced):
        assert response.status_code == 413
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "body_too_large")
        assert "1000 bytes" in error["message"]
        assert response.headers["x-request-id"]
    assert len(seen) <= 12


def test_a_body_in_pieces_is_read_whole() -> None:
    async def body() -> AsyncIterator[bytes]:
        for piece in (b'{"model": "twin", ', b'"prompt":', b' "a"}'):
            yield piece

    headers = {"content-type": "application/json"}
    response = ask(
        StubEngine(), "/v1/completions", content=body(), headers=headers, settings=settings(body=40)
    )
    assert response.status_code == 200


def test_the_prompts_of_a_request_are_bounded_together() -> None:
    few = settings(prompt_tokens=10)
    assert ask(StubEngine(), "/v1/completions", PROMPT | {"n": 3}, settings=few).status_code == 200
    for path, body in (
        ("/v1/completions", PROMPT | {"prompt": ["12345", "123456"]}),
        ("/v1/chat/completions", CHAT),
    ):
        engine = StubEngine()
        response = ask(engine, path, body, settings=few)
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["code"] == "too_many_prompt_tokens" and "10 are the most" in error["message"]
        assert engine.requests == []


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", PROMPT), ("/v1/chat/completions", CHAT)])
def test_a_client_may_give_its_request_less_time(path: str, body: Any) -> None:
    engine = StubEngine()
    for header, seconds in (({"x-request-timeout": "2.5"}, 2.5), ({}, None)):
        assert ask(engine, path, body | {"n": 2}, headers=header).status_code == 200
        assert {request.timeout for request in engine.requests[-2:]} == {seconds}
    for wrong in ("0", "-1", "soon", "nan", "inf", "1e999", ""):
        response = ask(engine, path, body, headers={"x-request-timeout": wrong})
        assert response.status_code == 400
        assert "positive number of seconds" in response.json()["error"]["message"]


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", PROMPT), ("/v1/chat/completions", CHAT)])
def test_a_prompt_that_takes_long_to_tokenise_holds_nobody_up(path: str, body: Any) -> None:
    """The tokenizer waits until another request has been answered, which a busy event loop could not."""
    engine = StubEngine()
    answered = threading.Event()

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(StubEngine().tokenizer, name)

        def __len__(self) -> int:
            return 257

        def encode(self, text: str) -> list[int]:
            assert answered.wait(10)
            return [1]

        def apply_chat_template(self, *_: Any, tokenize: bool = True, **__: Any) -> list[int] | str:
            assert answered.wait(10)
            return [1] if tokenize else "a"

    engine.tokenizer = Slow()
    app = create_app(engine)

    async def run() -> None:
        long = Connection(app, path, body)
        await asyncio.sleep(0.05)
        quick = Connection(app, "/v1/route", {"input": "a"})
        await quick.task
        assert quick.sent[0]["status"] == 200
        answered.set()
        await long.task
        assert long.sent[0]["status"] == 200

    asyncio.run(asyncio.wait_for(run(), 30))
