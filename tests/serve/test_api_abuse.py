"""Requests that are made to cost: refused before they do. No model."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from typing import Any

import httpx
import pytest

from serve.api.app import create_app
from serve.api.gate import StalledReader
from serve.api.limits import Limits
from serve.api.logprobs import spelling
from serve.api.scores import BATCH
from serve.serversettings import ServerSettings
from tests.serve.stub_engine import Connection, StubEngine, ask, tokenizer

CHAT, COMPLETIONS, ROUTE = "/v1/chat/completions", "/v1/completions", "/v1/route"


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"messages": [1] * 200_000}, "messages"),
        (ROUTE, {"messages": [{"role": "user"}] * 50_000}, "messages"),
        (COMPLETIONS, {"prompt": "x", "stop_token_ids": ["a"] * 200_000}, "stop_token_ids"),
        (COMPLETIONS, {"prompt": "x", "mixture": dict.fromkeys(map(str, range(50_000)), "a")}, "mixture"),
        (COMPLETIONS, {"prompt": "x", "route_tokens": ["a"] * 200_000}, "route_tokens"),
    ],
)
def test_lists_without_end_are_refused_as_one(path: str, fields: Any, param: str) -> None:
    named = {} if path == ROUTE else {"model": "twin"}
    response = ask(StubEngine(), path, {**named, **fields})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param and "it may hold up to" in error["message"]


def test_what_a_client_sent_comes_back_cut() -> None:
    response = ask(StubEngine(), COMPLETIONS, {"model": "m" * 100_000, "prompt": "x"})
    assert response.status_code == 404 and len(response.content) < 5000


def test_line_breaks_of_a_client_do_not_break_a_sentence() -> None:
    response = ask(StubEngine(), COMPLETIONS, {"model": "twin", "prompt": "x", "a\nb": 1})
    assert response.json()["error"]["message"] == "Unknown field 'a\\nb'."


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (COMPLETIONS, {"model": "twin", "prompt": ["short", "word " * 20_000]}),
        (CHAT, {"model": "twin", "messages": [{"role": "user", "content": "word " * 20_000}]}),
        (ROUTE, {"input": ["short", "word " * 20_000]}),
    ],
)
def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenised(path: str, fields: Any) -> None:
    class Untouched:
        """A tokenizer that has a vocabulary and must not be used."""

        def get_vocab(self) -> dict[str, int]:
            return {"ab": 0}

    engine = StubEngine()
    engine.tokenizer = Untouched()
    response = ask(engine, path, fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert "characters, and the model's context" in response.text and not engine.routed


def test_many_texts_are_routed_a_few_at_a_time_and_in_time() -> None:
    engine = StubEngine()
    texts = [f"text {i}" for i in range(2 * BATCH + 1)]
    found = ask(engine, ROUTE, {"input": texts}).json()["data"]
    assert [one["index"] for one in found] == list(range(len(texts)))
    assert [len(batch) for batch in engine.routed] == [BATCH, BATCH, 1]
    assert [turns for batch in engine.routed for (turns,) in batch] == texts

    engine = StubEngine()
    engine.hold_at = 0
    late = ask(engine, ROUTE, {"input": texts}, headers={"x-request-timeout": "0.05"})
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_nobody_holds_a_place_by_not_reading_a_whole_answer() -> None:
    async def run() -> None:
        app = create_app(StubEngine(), ServerSettings(limits=Limits(stalled_reader=0.05)))
        connection = Connection(app, COMPLETIONS, {"model": "twin", "prompt": "x"})
        connection.block_sending()
        with pytest.raises(StalledReader):
            await connection.task
        assert (app.state.gate_metrics.stalled, app.state.gate_metrics.admitted) == (1, 0)

    asyncio.run(run())


def test_a_body_that_trickles_in_is_given_up() -> None:
    async def run() -> None:
        app = create_app(StubEngine(), ServerSettings(limits=Limits(body_timeout=0.05)))

        async def slowly():
            yield b'{"model": "twin", '
            await asyncio.sleep(60)

        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://twin") as client:
            response = await client.post(COMPLETIONS, content=slowly())
        assert (response.status_code, response.json()["error"]["code"]) == (408, "body_timeout")

    asyncio.run(run())


def test_tokenizers_of_generations_that_have_ended_are_let_go() -> None:
    made = tokenizer()
    assert spelling(made, 65).text and spelling(made, 65) is spelling(made, 65)
    ended = weakref.ref(made)
    del made
    gc.collect()
    assert ended() is None


def test_a_body_at_the_limit_of_entries_is_still_refused_in_no_time() -> None:
    response = ask(StubEngine(), CHAT, {"model": "twin", "messages": [1] * 2048})
    assert response.status_code == 400
    assert json.loads(response.content)["error"]["param"] == "messages[0]"
