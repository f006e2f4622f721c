"""Bodies near valid ones get an answer or a 400 in the API's own words: never a 500."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serve.api.app import create_app
from serve.api.examples import bodies
from serve.api.schemas import ChatRequest, CompletionRequest, RouteRequest
from serve.api.unsupported import HARMLESS, NEUTRAL_FOR_CHAT, NEUTRAL_FOR_COMPLETIONS
from tests.near import places
from tests.serve.stub_engine import StubEngine

ENGINE = StubEngine()
EXAMPLES = bodies(ENGINE.name, ENGINE.tasks)
PATHS = {
    "/v1/completions": [*CompletionRequest.model_fields, *NEUTRAL_FOR_COMPLETIONS, *HARMLESS],
    "/v1/chat/completions": [*ChatRequest.model_fields, *NEUTRAL_FOR_CHAT, *HARMLESS],
    "/v1/route": [*RouteRequest.model_fields, "model"],
}
TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        [
            "",
            " ",
            "\x00",
            "\ud800",
            "text",
            "json_schema",
            "json_object",
            "user",
            "1",
            "01",
            "sorting",
            "twin",
        ]
    ),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([2**63, -(2**63) - 1, 10**400, float("nan"), float("inf"), -0.0, 1e-320, 1e308, 0.5]),
    TEXTS,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(TEXTS, st.sampled_from(["type", "schema", "content"])), inner, max_size=3),
    ),
    max_leaves=8,
)


@st.composite
def requests(draw: Callable[[Any], Any]) -> tuple[str, Any]:
    """A route and one of its examples with some fields replaced, removed or added."""
    path = draw(st.sampled_from(sorted(PATHS)))
    body = copy.deepcopy(draw(st.sampled_from(list(EXAMPLES[path].values()))))
    for _ in range(draw(st.integers(1, 3))):
        *inside, last = draw(st.sampled_from([*places(body), (draw(st.sampled_from(PATHS[path])),)]))
        target = body
        for key in inside:
            target = target[key]
        if draw(st.booleans()) or last not in (target if isinstance(target, dict) else range(len(target))):
            target[last] = draw(VALUES)
        else:
            del target[last]
    return path, body


async def _post(path: str, content: bytes) -> httpx.Response:
    transport = httpx.ASGITransport(create_app(ENGINE))
    async with httpx.AsyncClient(transport=transport, base_url="http://twin") as client:
        return await client.post(path, content=content, headers={"content-type": "application/json"})


def check(response: httpx.Response) -> None:
    """An answer, or a refusal of the API's shape in one sentence."""
    if response.status_code == 200:
        return
    assert response.status_code in (400, 404), response.text
    (error,) = response.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error" and "\n" not in error["message"].strip()
    assert response.status_code == 400 or error["code"] == "model_not_found"


FEW = settings(deadline=None, derandomize=True, database=None, max_examples=200)


@FEW
@given(asked=requests())
@example(asked=("/v1/route", {"input": ["a", "\ud800"]}))
def test_bodies_near_valid_ones(asked: tuple[str, Any]) -> None:
    path, body = asked
    ENGINE.requests.clear()
    ENGINE.routed.clear()
    response = asyncio.run(_post(path, json.dumps(body).encode()))
    check(response)
    if response.status_code != 200:
        assert not ENGINE.requests and not ENGINE.routed


@settings(FEW, max_examples=60)
@given(path=st.sampled_from(sorted(PATHS)), body=VALUES)
def test_any_json(path: str, body: Any) -> None:
    check(asyncio.run(_post(path, json.dumps(body).encode())))


@settings(FEW, max_examples=60)
@given(path=st.sampled_from(sorted(PATHS)), data=st.data())
def test_bytes_near_json(path: str, data: st.DataObject) -> None:
    content = bytearray(json.dumps(next(iter(EXAMPLES[path].values()))).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    check(asyncio.run(_post(path, bytes(content[: data.draw(st.integers(0, len(content)))]))))


@pytest.mark.parametrize("depth", [50, 150, 300, 500, 800, 1000, 5000])
@pytest.mark.parametrize("field", ["response_format", "messages", "logit_bias", "metadata", "tools"])
def test_deep_nesting(field: str, depth: int) -> None:
    body = json.dumps({"model": "twin", "messages": [{"role": "user", "content": "hi"}], field: "HERE"})
    deep = '{"items":' * depth + "{}" + "}" * depth
    if field == "response_format":
        deep = f'{{"type": "json_schema", "json_schema": {{"name": "a", "schema": {deep}}}}}'
    check(asyncio.run(_post("/v1/chat/completions", body.replace('"HERE"', deep).encode())))
