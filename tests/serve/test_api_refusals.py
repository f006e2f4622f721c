"""Bad requests: a 400 or 404 in OpenAI's shape that names the field."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from serve.api.limits import Limits
from serve.job import DeadlineError
from serve.serversettings import ServerSettings
from tests.serve.stub_engine import StubEngine, ask, chat, complete

MISSING = object()


def error_of(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"].endswith((".", "?"))
    assert response.headers["x-request-id"]
    return error


def post(path: str, **fields: Any) -> httpx.Response:
    base: dict[str, Any] = {"model": "twin"}
    if path.endswith("chat/completions"):
        base["messages"] = [{"role": "user", "content": "hi"}]
    else:
        base["prompt"] = "hi"
    body = {name: value for name, value in (base | fields).items() if value is not MISSING}
    engine = StubEngine()
    response = ask(engine, path, body)
    assert engine.requests == []
    return response


BOTH = ["/v1/completions", "/v1/chat/completions"]


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model", MISSING, "missing"),
        ("model", 3, "string"),
        ("model", None, "string"),
        ("max_tokens", 0, "greater"),
        ("max_tokens", -1, "greater"),
        ("max_tokens", "16", "integer"),
        ("max_tokens", 1.5, "integer"),
        ("max_tokens", True, "integer"),
        ("max_completion_tokens", 0, "greater"),
        ("temperature", -0.1, "greater"),
        ("temperature", 2.1, "less"),
        ("temperature", "hot", "number"),
        ("top_p", -0.1, "greater"),
        ("top_p", 1.01, "less"),
        ("seed", 1.5, "integer"),
        ("seed", 2**63, "less"),
        ("stop", "", "none of them empty"),
        ("stop", ["a", ""], "none of them empty"),
        ("stop", ["a", 1], "list of strings"),
        ("stop", list("abcdefghijklmnopq"), "up to 16"),
        ("stop", "\ud800", "surrogate"),
        ("stop_token_ids", "5", "list"),
        ("stop_token_ids", [1000], "0 to 256"),
        ("ignore_eos", "yes", "boolean"),
        ("stream", 1, "boolean"),
        ("stream_options", {"include_usage": True}, "stream"),
        ("mixture", [], "must be an object"),
        ("mixture", {"cooking": 1.0}, "'sorting', 'sentiment'"),
        ("n", 0, "greater"),
        ("n", 129, "less than or equal to 128"),
        ("n", True, "integer"),
        ("top_k", -2, "greater"),
        ("top_k", 1.5, "integer"),
        ("min_p", 1.01, "less"),
        ("min_p", -0.1, "greater"),
        ("repetition_penalty", 0, "greater"),
        ("repetition_penalty", 101, "less"),
        ("presence_penalty", 2.1, "less"),
        ("frequency_penalty", -2.1, "greater"),
        ("frequency_penalty", "1", "number"),
        ("logit_bias", [50], "must be an object"),
        ("logit_bias", {"the": 1}, "token ids"),
        ("logit_bias", {"05": 1}, "token ids"),
        ("logit_bias", {"-1": 1}, "token ids"),
        ("logit_bias", {"9" * 5000: 1}, "token ids"),
        ("logit_bias", {"5": 100.5}, "token 5 must be a number from -100 to 100"),
        ("logit_bias", {"5": True}, "token 5 must be a number"),
        ("logit_bias", {"5": "1"}, "token 5 must be a number"),
        ("logit_bias", {"5": float("nan")}, "token 5 must be a number"),
        ("logit_bias", {"257": 1}, "0 to 256"),
        ("logit_bias", {str(i): 1 for i in range(1025)}, "up to 1024"),
        ("max_token", 5, "Did you mean 'max_tokens'?"),
        ("guided_grammar_of_mine", 5, "Unknown field"),
        ("{}", 5, "Unknown field '{}'"),
    ],
)
def test_fields_of_both_routes(path: str, field: str, value: Any, words: str) -> None:
    error = error_of(post(path, **{field: value}))
    assert error["param"] is not None and error["param"].startswith(field)
    assert words in error["message"]


@pytest.mark.parametrize("path", BOTH)
def test_nested_fields_are_named_in_full(path: str) -> None:
    error = error_of(post(path, stream=True, stream_options={"include_usage": 1}))
    assert error["param"] == "stream_options.include_usage"
    error = error_of(post(path, stream=True, stream_options={"continuous": True}))
    assert error["param"] == "stream_options.continuous"
    assert error_of(post(path, mixture={"sorting": "1"}))["param"] == "mixture.sorting"
    assert error_of(post(path, mixture={"sorting": True}))["param"] == "mixture.sorting"
    assert error_of(post(path, stop_token_ids=[-1]))["param"] == "stop_token_ids[0]"


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_must_be_finite(path: str, number: str) -> None:
    given = '"prompt": "a"' if path == "/v1/completions" else '"messages": []'
    for field in ('"temperature": %s', '"top_p": %s', '"mixture": {"sorting": %s}'):
        body = '{"model": "twin", ' + given + ", " + field % number + "}"
        response = ask(StubEngine(), path, content=body, headers={"content-type": "application/json"})
        assert "finite" in error_of(response)["message"]


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize("model", ["gpt-4o", "twin:cooking", "twin:", "sorting", "", "\ud800"])
def test_unknown_models_are_404_and_name_the_known(path: str, model: str) -> None:
    error = error_of(post(path, model=model), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    for known in ("'twin'", "'twin:dynamic'", "'twin:static'", "'twin:sorting'", "'twin:sentiment'"):
        assert known in error["message"]


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize("model", ["twin:static", "twin:sorting"])
def test_mixture_needs_a_dynamic_model(path: str, model: str) -> None:
    error = error_of(post(path, model=model, mixture={"sorting": 1.0}))
    assert error["param"] == "mixture"
    assert "'twin:dynamic'" in error["message"]


def test_two_different_limits_are_one_too_many() -> None:
    assert error_of(complete(StubEngine(), max_tokens=1, max_completion_tokens=2))["param"] == "max_tokens"
    assert complete(StubEngine(), max_tokens=2, max_completion_tokens=2).status_code == 200


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (MISSING, "missing"),
        (None, "must be a string"),
        (5, "must be a string"),
        ({"text": "a"}, "must be a string"),
        ("", "empty"),
        ([], "empty"),
        ([[]], "empty"),
        ([""], "empty"),
        (["a", ""], "empty"),
        ([[1], []], "empty"),
        (["a", 1], "must be a string"),
        (["a", [1]], "must be a string"),
        ([1, True], "must be a string"),
        ([1, 2.5], "must be a string"),
        ([[1, "a"]], "must be a string"),
        ([-1], "-1"),
        ([257], "0 to 256"),
        ([10**30], "0 to 256"),
        (["a"] * 2049, "up to 2048"),
        ("\ud800", "surrogate"),
        (["a", "\ud800"], "surrogate"),
    ],
)
def test_prompts(prompt: Any, words: str) -> None:
    error = error_of(post("/v1/completions", prompt=prompt))
    assert error["param"].startswith("prompt")
    assert words in error["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("best_of", 2), ("suffix", "end")],
)
def test_fields_of_completions_that_are_not_supported(field: str, value: Any) -> None:
    error = error_of(complete(StubEngine(), **{field: value}))
    assert (error["param"], error["code"]) == (field, "unsupported_value")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("modalities", ["text", "audio"]),
        ("reasoning_effort", "high"),
    ],
)
def test_fields_of_chat_that_are_not_supported(field: str, value: Any) -> None:
    error = error_of(chat(StubEngine(), **{field: value}))
    assert (error["param"], error["code"]) == (field, "unsupported_value")
    assert "not supported yet" in error["message"]


def test_tools_are_refused_with_what_to_do_instead() -> None:
    error = error_of(chat(StubEngine(), tools=[{"type": "function", "function": {"name": "f"}}]))
    assert error["message"] == (
        "This value of 'tools' is not supported yet; describe the tools in a message, read the calls from"
        " the answer's text, and leave the field out."
    )


USER = {"role": "user", "content": "hi"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}


@pytest.mark.parametrize(
    ("messages", "param", "words"),
    [
        (MISSING, "messages", "missing"),
        ([], "messages", "empty"),
        ("hi", "messages", "list"),
        (["hi"], "messages[0]", "must be an object"),
        ([{"role": "user"}], "messages[0].content", "missing"),
        ([{"content": "hi"}], "messages[0].role", "missing"),
        ([USER, {"role": "tool", "content": "hi"}], "messages[1].role", "'user'"),
        ([{"role": "user", "content": None}], "messages[0].content", "string or a list"),
        ([{"role": "user", "content": [IMAGE]}], "messages[0].content", "'image_url'"),
        ([{"role": "user", "content": ["hi"]}], "messages[0].content", "part 0"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content", "part 0"),
        ([{"role": "user", "content": "\ud800"}], "messages[0].content", "surrogate"),
        ([USER | {"colour": 1}], "messages[0].colour", "Unknown"),
        ([USER | {"tool_calls": [{}]}], "messages[0].tool_calls", "not supported yet"),
        ([USER | {"tool_call_id": "a"}], "messages[0].tool_call_id", "not supported yet"),
        ([{"role": "assistant", "content": "hi"}], "messages", "a user must begin"),
        ([{"role": "user", "content": ""}], "messages", "no text to route"),
    ],
)
def test_messages(messages: Any, param: str, words: str) -> None:
    error = error_of(post("/v1/chat/completions", messages=messages))
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize("value", [True, 21, -1, "5", 1.0])
def test_logprobs_of_completions_are_a_number(value: Any) -> None:
    error = error_of(complete(StubEngine(), logprobs=value))
    assert error["param"] == "logprobs" and "from 0 to 20" in error["message"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"logprobs": 5}, "logprobs", "boolean"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less"),
        ({"logprobs": True, "top_logprobs": True}, "top_logprobs", "integer"),
        ({"top_logprobs": 2}, "top_logprobs", "needs 'logprobs': true"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs", "needs 'logprobs': true"),
    ],
)
def test_logprobs_of_chat_are_a_switch_and_a_number(fields: Any, param: str, words: str) -> None:
    error = error_of(chat(StubEngine(), **fields))
    assert error["param"] == param and words in error["message"]


@pytest.mark.parametrize("path", BOTH)
def test_half_a_surrogate_pair_in_a_fields_name_or_a_prompt_is_told(path: str) -> None:
    error = error_of(post(path, **{"\ud800": 1}))
    assert error["param"] == "\\ud800" and "Unknown field" in error["message"]
    field = {"prompt": ["a", "b\ud800"]} if path == "/v1/completions" else {"user\udfff": 1}
    assert error_of(post(path, **field))["param"] in ("prompt[1]", "user\\udfff")


def test_prompts_times_choices_are_bounded() -> None:
    engine = StubEngine()
    error = error_of(complete(engine, ["a"] * 17, n=128))
    assert error["param"] == "n" and "2048" in error["message"]
    assert engine.requests == []
    body = {"model": "twin", "prompt": ["sort"] * 16, "n": 128, "max_tokens": 1}
    settings = ServerSettings(slots=1, limits=Limits(queue=2047))
    assert ask(engine, "/v1/completions", body, settings=settings).status_code == 200
    assert len(engine.requests) == 2048


def test_every_answer_is_returned_so_best_of_must_be_n() -> None:
    assert "'n', which is 2" in error_of(complete(StubEngine(), n=2, best_of=3))["message"]
    assert error_of(complete(StubEngine(), n=2, best_of=1))["param"] == "best_of"
    assert complete(StubEngine(), n=2, best_of=2).status_code == 200


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_too_long_answer_names_the_largest_that_fits(field: str) -> None:
    error = error_of(complete(StubEngine(), "a" * 150, **{field: 51}))
    assert (error["param"], error["code"]) == (field, "context_length_exceeded")
    for number in ("150", "51", "200", "50"):
        assert number in error["message"].replace("'", " ").replace(".", " ").split()


@pytest.mark.parametrize("length", [200, 500])
def test_a_too_long_prompt_names_the_longest_that_fits(length: int) -> None:
    error = error_of(complete(StubEngine(), "a" * length))
    assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")
    assert str(length) in error["message"] and "199" in error["message"]
    error = error_of(chat(StubEngine(), "a" * length))
    assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")


def test_one_bad_prompt_refuses_the_request() -> None:
    engine = StubEngine()
    error_of(complete(engine, ["a", "b" * 200]))
    assert engine.requests == []


@pytest.mark.parametrize("path", [*BOTH, "/v1/route"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ('{"model": "twin",}', "not valid JSON"),
        ("", "JSON object"),
        ("[]", "JSON object"),
        ('"twin"', "JSON object"),
        ("null", "JSON object"),
        ("3", "JSON object"),
        (b"\xff\xfe{", "not UTF-8"),
        ("[" * 100_000, "too deeply"),
    ],
)
def test_bodies_that_are_no_json_object(path: str, content: str | bytes, words: str) -> None:
    headers = {"content-type": "application/json"}
    error = error_of(ask(StubEngine(), path, content=content, headers=headers))
    assert words in error["message"]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_must_say_that_it_is_json(kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    content = b'{"model": "twin", "prompt": "a"}'
    error = error_of(ask(StubEngine(), "/v1/completions", content=content, headers=headers))
    assert "Content-Type: application/json" in error["message"]


def test_what_came_too_late_is_a_504():
    engine = StubEngine()
    engine.fail = DeadlineError("the request was not answered in time")
    response = ask(engine, "/v1/completions", {"model": "twin", "prompt": "hi"})
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
