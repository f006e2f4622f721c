"""The official client against a real server: what it parses is what its users will get."""

from __future__ import annotations

import asyncio
import inspect
import time
import typing
from collections.abc import Iterator
from typing import cast

import openai
import pytest
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionMessageParam,
    ChatCompletionStreamOptionsParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionUserMessageParam,
)

from compress.errors import InputError
from serve.api.schemas import ChatRequest, CompletionRequest, Message, StreamOptions
from tests.serve.server import serving
from tests.serve.stub_engine import StubEngine

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "sort these"}]


@pytest.fixture
def engine() -> StubEngine:
    return StubEngine()


@pytest.fixture
def client(engine: StubEngine) -> Iterator[openai.OpenAI]:
    with (
        serving(engine) as address,
        openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=20) as client,
    ):
        yield client


def test_models(client: openai.OpenAI) -> None:
    ids = [model.id for model in client.models.list()]
    assert ids == ["twin", "twin:dynamic", "twin:static", "twin:sorting", "twin:sentiment"]
    assert client.models.retrieve("twin:static").id == "twin:static"


def test_chat(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="twin", messages=MESSAGES)
    answer = raw.parse()
    assert answer.choices[0].message.content == "one two three four"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].routing["mixture"] == {"sorting": 1.0}  # type: ignore[attr-defined]
    assert answer.usage is not None and answer.usage.completion_tokens == 4
    assert raw.headers["x-twinserve-arm"] == "dynamic"
    assert raw.headers["x-request-id"] == answer._request_id


def test_an_assistant_turn_can_be_sent_back_as_it_came(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="twin", messages=MESSAGES)
    turn = answer.choices[0].message.model_dump()
    assert turn["role"] == "assistant"
    turns = [*MESSAGES, cast(ChatCompletionMessageParam, turn), *MESSAGES]
    assert client.chat.completions.create(model="twin", messages=turns).choices


def test_chat_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="twin",
        messages=MESSAGES,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"mixture": {"sentiment": 0.5}},
    )
    *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three four"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].routing["source"] == "request"  # type: ignore[attr-defined]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.usage is not None and last.usage.completion_tokens == 4


def test_completion_and_its_stream(client: openai.OpenAI) -> None:
    prompts = ["sort these", "and these"]
    whole = client.completions.create(model="twin", prompt=prompts, max_tokens=3, seed=1)
    assert [choice.text for choice in whole.choices] == ["one two three"] * 2
    stream = client.completions.create(model="twin:static", prompt="a", max_tokens=3, stream=True)
    assert [chunk.choices[0].text for chunk in stream] == ["", "one", " two", " three"]


def test_mixture_goes_in_the_extra_body(client: openai.OpenAI, engine: StubEngine) -> None:
    mixture = {"sorting": 0.25, "sentiment": 0.75}
    answer = client.completions.create(model="twin", prompt="a", extra_body={"mixture": mixture})
    assert answer.choices[0].routing["mixture"] == mixture  # type: ignore[attr-defined]
    assert engine.requests[0].target.mixture == mixture


def test_errors_are_the_clients_own_exceptions(client: openai.OpenAI, engine: StubEngine) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt-4o", prompt="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="twin", prompt="a", suffix="z")
    assert refused.value.param == "suffix"
    engine.fail, engine.fail_at = InputError("cannot go on"), 2
    with pytest.raises(openai.APIError, match="cannot go on"):
        list(client.completions.create(model="twin", prompt="a", stream=True))
    engine.ready = False
    with pytest.raises(openai.InternalServerError) as unready:
        client.completions.create(model="twin", prompt="a")
    assert unready.value.status_code == 503


def test_closing_a_stream_frees_the_engine(client: openai.OpenAI, engine: StubEngine) -> None:
    engine.hold_at = 2
    stream = client.completions.create(model="twin", prompt="a", stream=True)
    assert next(stream).choices[0].text == ""
    stream.close()
    _wait_for_cancellation(engine)


def test_giving_up_on_an_answer_frees_the_engine(client: openai.OpenAI, engine: StubEngine) -> None:
    engine.hold_at = 0
    with pytest.raises(openai.APITimeoutError):
        client.completions.create(model="twin", prompt="a", timeout=0.3)
    _wait_for_cancellation(engine)


def test_every_parameter_of_the_client_is_decided_about() -> None:
    """Acted upon, harmless, or refused by name: a new version of the client may bring others."""
    transport = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    for create, body in (
        (openai.resources.Completions.create, CompletionRequest),
        (openai.resources.chat.Completions.create, ChatRequest),
    ):
        offered = set(inspect.signature(create).parameters) - transport
        assert {"model", "stop", "logit_bias"} <= offered
        assert offered <= {*body.model_fields, *body.neutral, *body.harmless}
    options = typing.get_type_hints(ChatCompletionStreamOptionsParam)
    assert set(options) <= {*StreamOptions.model_fields, *StreamOptions.harmless}
    for message in (
        ChatCompletionDeveloperMessageParam,
        ChatCompletionSystemMessageParam,
        ChatCompletionUserMessageParam,
        ChatCompletionAssistantMessageParam,
    ):
        assert set(typing.get_type_hints(message)) <= {*Message.model_fields, *Message.neutral}


def _wait_for_cancellation(engine: StubEngine) -> None:
    deadline = time.monotonic() + 10
    while not engine.cancelled and time.monotonic() < deadline:
        time.sleep(0.005)
    assert (engine.cancelled, engine.running) == (1, 0)


def test_async_clients_share_the_server(engine: StubEngine) -> None:
    async def run(address: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=address, api_key="none", timeout=20) as client:
            answers = await asyncio.gather(
                *(client.completions.create(model="twin", prompt=f"sort {i}") for i in range(8))
            )
            stream = await client.completions.create(model="twin", prompt="a", stream=True)
            streamed = "".join([chunk.choices[0].text async for chunk in stream])
        return [*(answer.choices[0].text for answer in answers), streamed]

    with serving(engine) as address:
        assert asyncio.run(run(address)) == ["one two three four"] * 9
