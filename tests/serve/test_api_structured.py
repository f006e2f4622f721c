"""response_format over the wire: the openai client's parsed answers, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from pydantic import BaseModel, Field

from serve.request import SamplingParams
from tests.serve.server import serving
from tests.serve.structured import engine_of_json
from tests.serve.stub_engine import StubEngine, chat, complete

MESSAGES: Any = [{"role": "user", "content": "Where does Ada live?"}]


class Place(BaseModel):
    city: Literal["Paris", "Rome"]
    zip: str = Field(pattern="^[0-9]{3}$")


class Person(BaseModel):
    name: Literal["Ada"]
    age: int = Field(ge=0, le=99)
    home: Place
    tags: list[bool] = Field(max_length=2)


def schema_of(model: type[BaseModel], **fields: Any) -> dict[str, Any]:
    return {
        "type": "json_schema",
        "json_schema": {"name": "made", "schema": model.model_json_schema(), **fields},
    }


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    engine = engine_of_json(tmp_path_factory.mktemp("structured"))
    try:
        with serving(engine) as url:
            yield url
    finally:
        engine.stop()


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60) as made:
        yield made


def test_the_client_parses_a_pydantic_model(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="tiny:static", messages=MESSAGES, response_format=Person, temperature=1, seed=1
    )
    (choice,) = answer.choices
    assert isinstance(choice.message.parsed, Person) and choice.message.refusal is None
    assert choice.finish_reason == "stop"


def test_several_choices_each_follow_the_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="tiny:t1", messages=MESSAGES, response_format=Person, temperature=1, seed=2, n=4
    )
    assert all(isinstance(choice.message.parsed, Person) for choice in answer.choices)
    assert len({choice.message.content for choice in answer.choices}) == 4


def test_a_stream_ends_with_the_parsed_model(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="tiny:static", messages=MESSAGES, response_format=Person, seed=3
    ) as stream:
        assert sum(event.type == "content.delta" for event in stream) > 3
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Person)


def test_a_cut_answer_is_the_clients_length_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model="tiny:static", messages=MESSAGES, response_format=Person, max_tokens=3
        )


def test_completions_take_it_in_the_extra_body(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="tiny:static",
        prompt=["a", "b"],
        max_tokens=400,
        seed=4,
        extra_body={"response_format": schema_of(Place, strict=False)},
    )
    assert all(Place.model_validate_json(choice.text) for choice in answer.choices)


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_cannot_be_followed_is_a_400_that_names_the_field(address: str, stream: bool) -> None:
    wrong = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {"type": "string"}}}}
    body = {
        "model": "tiny:static",
        "messages": MESSAGES,
        "stream": stream,
        "response_format": wrong,
    }
    response = httpx.post(f"{address}/chat/completions", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("response_format", "invalid_value")
    assert error["message"].endswith('cannot be followed: Unimplemented keys: ["not"]')


def test_what_the_engine_is_asked() -> None:
    def asked(**fields: Any) -> SamplingParams:
        engine = StubEngine()
        assert chat(engine, **fields).status_code == complete(engine, **fields).status_code == 200
        assert engine.requests[0].params.json_schema == engine.requests[1].params.json_schema
        return engine.requests[0].params

    assert asked().json_schema is asked(response_format={"type": "text"}).json_schema is None
    assert asked(response_format={"type": "json_object"}).json_schema == '{"type":"object"}'
    ordered = {"type": "object", "properties": {"b": {}, "a": {}}}
    params = asked(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": ordered}})
    assert params.json_schema == json.dumps(ordered) and isinstance(hash(params), int)


NAMED = {"name": "a", "schema": {}}
DEEP: dict[str, Any] = {}
for _ in range(700):
    DEEP = {"items": DEEP}


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ("json_object", "response_format", "an object"),
        ({}, "response_format.type", "missing"),
        ({"type": "xml"}, "response_format.type", "'json_schema'"),
        ({"type": "json_schema"}, "response_format.json_schema", "belongs to"),
        ({"type": "text", "json_schema": NAMED}, "response_format.json_schema", "belongs to"),
        ({"type": "json_object", "schema": {}}, "response_format.schema", "Unknown field"),
        (
            {"type": "json_schema", "json_schema": {"name": "a"}},
            "response_format.json_schema.schema",
            "missing",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}},
            "response_format.json_schema.name",
            "pattern",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": True}},
            "response_format.json_schema.schema",
            "must be an object",
        ),
    ],
)
def test_wrong_formats(given: Any, param: str, words: str) -> None:
    response = chat(StubEngine(), response_format=given)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param and words in error["message"]


def test_a_deeply_nested_schema_is_no_failure() -> None:
    named = {"name": "a", "schema": DEEP}
    response = chat(StubEngine(), response_format={"type": "json_schema", "json_schema": named})
    assert response.status_code in (200, 400)
