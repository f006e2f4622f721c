"""The log of requests: one line each, with figures and without a word of anybody."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from serve.api.app import create_app
from serve.logs import JsonLines, TextLines
from tests.serve.stub_engine import Connection, StubEngine, ask, chat, complete

RFC3339 = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What is logged below serve, as JSON lines."""
    text = io.StringIO()
    handler, logger = logging.StreamHandler(text), logging.getLogger("serve")
    handler.setFormatter(JsonLines())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield text
    logger.removeHandler(handler)
    logger.setLevel(level)


def access(written: io.StringIO) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    return [line for line in lines if line["logger"] == "serve.api.access"]


def test_a_request_is_one_line_of_figures(written):
    complete(StubEngine(), "sort these", model="twin:sentiment", max_tokens=3)
    (line,) = access(written)
    assert re.fullmatch(RFC3339, line.pop("time"))
    assert 0 <= line.pop("seconds") < 10
    assert re.fullmatch("[0-9a-f]{32}", line.pop("request_id"))
    assert line == {
        "level": "INFO",
        "logger": "serve.api.access",
        "message": "request",
        "method": "POST",
        "path": "/v1/completions",
        "status": 200,
        "model": "twin:sentiment",
        "arm": "sentiment",
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "disconnected": False,
    }


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_of_all_choices_are_counted(written, stream):
    chat(StubEngine(), "sort these", n=2, stream=stream)
    (line,) = access(written)
    assert (line["completion_tokens"], line["arm"], line["status"]) == (8, "dynamic", 200)
    assert line["disconnected"] is False
    assert line["prompt_tokens"] > 10


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [("/health", None, 200), ("/v1/none", None, 404), ("/v1/completions", {"model": "secret"}, 400)],
)
def test_requests_without_an_answer_have_a_line_as_well(written, path, body, status):
    ask(StubEngine(), path, body)
    (line,) = access(written)
    assert (line["path"], line["status"]) == (path, status)
    assert not {"model", "arm", "prompt_tokens", "completion_tokens"} & set(line)


def test_what_breaks_unexpectedly_is_one_line_with_its_exception_and_the_requests_id(written):
    engine = StubEngine()
    engine.fail = ZeroDivisionError("of course")
    response = complete(engine, "sort these", max_tokens=3)
    told, request = [json.loads(line) for line in written.getvalue().splitlines()]
    assert told["exception"].startswith("Traceback") and "of course" in told["exception"]
    assert told["request_id"] == request["request_id"] == response.headers["x-request-id"]
    assert (request["status"], told["level"]) == (500, "ERROR")


def test_prompts_answers_keys_and_queries_are_never_logged(written):
    engine = StubEngine()
    options = {"headers": {"authorization": "Bearer hush", "x-request-id": "mine-1"}}
    body = {"model": "twin", "prompt": "sort wordy", "max_tokens": 4}
    ask(engine, "/v1/completions?key=hush", body, **options)
    ask(engine, "/v1/completions", body | {"model": "wordy"}, **options)
    ask(engine, "/v1/completions", body | {"stream": True}, **options)
    engine.fail, engine.fail_at = RuntimeError("broken"), 2
    ask(engine, "/v1/completions", body, **options)
    text = written.getvalue()
    assert len(access(written)) == 4 and text.count("mine-1") >= 4
    assert not [word for word in ("wordy", "hush", "three") if word in text]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hung_up_is_told_from_one_that_stayed(written, stream):
    engine = StubEngine()
    engine.hold_at = 3
    body = {"model": "twin", "prompt": "sort these", "stream": stream}

    async def run() -> None:
        connection = Connection(create_app(engine), "/v1/completions", body)
        await engine.held.wait()
        connection.cut()
        await connection.task

    asyncio.run(asyncio.wait_for(run(), 10))
    (line,) = access(written)
    assert line["disconnected"] is True
    assert (line["completion_tokens"], line["status"]) == (2, 200 if stream else 499)


def test_a_line_break_in_a_path_begins_no_line():
    text = io.StringIO()
    handler, logger = logging.StreamHandler(text), logging.getLogger("serve.api.access")
    handler.setFormatter(TextLines())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        ask(StubEngine(), "/a%0Ab")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert re.fullmatch(
        rf"{RFC3339} INFO serve\.api\.access: request request_id=\w+ method=GET path=/a%0Ab status=404 .*\n",
        text.getvalue(),
    )
