"""Models, router scores, health, request ids, and errors outside the two answering routes."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.serve.stub_engine import StubEngine, ask, chat, complete

IDS = ["twin", "twin:dynamic", "twin:static", "twin:sorting", "twin:sentiment"]


def test_models_lists_every_id() -> None:
    body = ask(StubEngine(), "/v1/models").json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == IDS
    for model in body["data"]:
        assert set(model) == {"id", "object", "created", "owned_by"}
        assert model["object"] == "model"


def test_models_follow_the_engine() -> None:
    engine = StubEngine()
    engine.name, engine.tasks = "org/twin", []
    listed = ask(engine, "/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["org/twin", "org/twin:dynamic", "org/twin:static"]
    assert ask(engine, "/v1/models/org/twin:static").json()["id"] == "org/twin:static"


def test_one_model() -> None:
    for model in IDS:
        assert ask(StubEngine(), f"/v1/models/{model}").json()["id"] == model
    response = ask(StubEngine(), "/v1/models/gpt-4o")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


SURE = {
    "index": 0,
    "probabilities": {"sorting": 0.75, "sentiment": 0.25},
    "mixture": {"sorting": 1.0},
    "confidence": 0.75,
    "known": True,
}


def test_route_scores_one_text() -> None:
    response = ask(StubEngine(), "/v1/route", {"input": "sort these"})
    assert response.status_code == 200
    assert response.json() == {"object": "list", "data": [SURE]}


def test_route_scores_many_texts_at_once() -> None:
    engine = StubEngine()
    body = ask(engine, "/v1/route", {"input": ["hello", "sort these"]}).json()
    assert [one["index"] for one in body["data"]] == [0, 1]
    assert [one["known"] for one in body["data"]] == [False, True]
    assert body["data"][0]["mixture"] == {}
    assert engine.routed == [[("hello",), ("sort these",)]]


def test_route_scores_a_conversation_by_its_user_turns() -> None:
    engine = StubEngine()
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "sort"},
        {"role": "user", "content": [{"type": "text", "text": "these"}]},
    ]
    assert ask(engine, "/v1/route", {"messages": messages}).json()["data"] == [SURE]
    assert engine.routed == [[("sort", "these")]]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": "a", "messages": [{"role": "user", "content": "a"}]}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": 3}, "input"),
        ({"input": ["\ud800"]}, "input[0]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"input": "a", "top_k": 2}, "top_k"),
    ],
)
def test_route_refusals(body: Any, param: str) -> None:
    response = ask(StubEngine(), "/v1/route", body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_health_and_readiness() -> None:
    engine = StubEngine()
    assert ask(engine, "/health").json() == {"status": "ok"}
    assert ask(engine, "/ready").json() == {"status": "ready"}
    engine.ready = False
    assert ask(engine, "/health").status_code == 200
    assert ask(engine, "/v1/models").status_code == 200
    for response in (
        ask(engine, "/ready"),
        complete(engine),
        chat(engine, stream=True),
        ask(engine, "/v1/route", {"input": "a"}),
    ):
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert response.json()["error"] == {
            "message": "The model is loading or shutting down; try again in a moment.",
            "type": "server_error",
            "param": None,
            "code": "not_ready",
        }
    assert engine.requests == []


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/models", 404, "unknown_url"),
        ("POST", "/v1/embeddings", 404, "unknown_url"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("POST", "/v1/completions/", 404, "unknown_url"),
    ],
)
def test_unknown_routes_and_methods(method: str, path: str, status: int, code: str) -> None:
    response = ask(StubEngine(), path, method=method)
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, code)
    assert f"{method} {path}" in error["message"]
    if status == 405:
        assert response.headers["allow"] in error["message"]


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nowhere"])
def test_a_sane_request_id_comes_back(path: str) -> None:
    sane = "job-7:a_b.C"
    response = ask(StubEngine(), path, headers={"X-Request-ID": sane})
    assert response.headers.get_list("x-request-id") == [sane]


@pytest.mark.parametrize("given", ["", "two words", "a" * 129, "a;b", b"\xc3\xa4"])
def test_other_request_ids_are_replaced(given: str | bytes) -> None:
    engine = StubEngine()
    response = complete(engine, stream=True)
    made = response.headers["x-request-id"]
    response = ask(engine, "/health", headers={"x-request-id": given})
    other = response.headers["x-request-id"]
    assert len(made) == len(other) == 32 and made != other
    int(made + other, 16)


def test_a_bug_is_a_500_without_internals_and_is_logged_with_the_request_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = StubEngine()
    engine.fail = RuntimeError("secret path /root")
    with caplog.at_level(logging.ERROR):
        response = ask(engine, "/v1/route", {"input": "a"}, headers={"x-request-id": "abc"})
    assert response.status_code == 500
    assert response.headers["x-request-id"] == "abc"
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert "abc" in error["message"] and "secret" not in response.text
    assert "abc" in caplog.text and "secret path" in caplog.text


def test_the_documentation_promises_the_errors_that_are_sent() -> None:
    schema = ask(StubEngine(), "/openapi.json").json()
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/route"):
        responses = schema["paths"][path]["post"]["responses"]
        assert set(responses) == {"200", "4XX", "5XX"}
    prompt = schema["components"]["schemas"]["CompletionRequest"]["properties"]["prompt"]
    assert len(prompt["anyOf"]) == 4
