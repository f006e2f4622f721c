"""Whole answers: OpenAI's shapes, sampling fields, model ids, routing."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from serve.request import SamplingParams, Target
from tests.serve.stub_engine import TOKENIZER, StubEngine, ask, chat, complete, tokenizer

DYNAMIC = {
    "mixture": {"sorting": 1.0},
    "source": "router",
    "confidence": 0.75,
    "arm": "dynamic",
    "generation": 3,
}


def test_completion_has_openais_shape_and_the_routing() -> None:
    response = complete(StubEngine(), "sort these")
    body = response.json()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert body.pop("id").startswith("cmpl-")
    assert abs(body.pop("created") - time.time()) < 60
    assert body == {
        "object": "text_completion",
        "model": "twin",
        "choices": [
            {
                "index": 0,
                "text": "one two three four",
                "logprobs": None,
                "finish_reason": "stop",
                "routing": DYNAMIC,
            }
        ],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 4,
            "total_tokens": 14,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


def test_chat_completion_has_openais_shape_and_the_routing() -> None:
    engine = StubEngine()
    response = chat(engine, "sort these")
    body = response.json()
    assert response.status_code == 200
    assert body.pop("id").startswith("chatcmpl-")
    assert abs(body.pop("created") - time.time()) < 60
    prompt_tokens = len("<|user|>sort these") + 1 + len("<|assistant|>")
    assert body == {
        "object": "chat.completion",
        "model": "twin",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "one two three four", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
                "routing": DYNAMIC,
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": 4,
            "total_tokens": prompt_tokens + 4,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }
    assert TOKENIZER.decode(engine.requests[0].prompt) == "<|user|>sort these<eos><|assistant|>"


def test_an_answer_cut_by_max_tokens_says_length() -> None:
    choice = complete(StubEngine(), max_tokens=2).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("one two", "length")


def test_headers_repeat_the_routing_of_a_single_prompt() -> None:
    for response in (complete(StubEngine()), chat(StubEngine()), chat(StubEngine(), stream=True)):
        assert response.headers["x-twinserve-mixture"] == '{"sorting":1.0}'
        assert response.headers["x-twinserve-arm"] == "dynamic"
        assert response.headers["x-twinserve-generation"] == "3"
        assert response.headers["x-request-id"]


def test_the_mixture_header_is_compact_sorted_ascii() -> None:
    engine = StubEngine()
    engine.tasks = ["zählen", "add"]
    response = complete(engine, mixture={"zählen": 0.25, "add": 0.5})
    assert response.headers["x-twinserve-mixture"] == '{"add":0.5,"z\\u00e4hlen":0.25}'


@pytest.mark.parametrize(
    "prompts",
    [["sort a", "b", "sort c"], [[1, 2], [3], [4, 5]]],
    ids=["texts", "token ids"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_run_at_once_and_have_no_routing_headers(prompts: list[Any], stream: bool) -> None:
    engine = StubEngine()
    response = complete(engine, prompts, stream=stream)
    assert response.status_code == 200
    assert engine.peak == 3
    assert "x-twinserve-mixture" not in response.headers
    if not stream:
        choices = response.json()["choices"]
        assert [choice["index"] for choice in choices] == [0, 1, 2]
        assert {choice["text"] for choice in choices} == {"one two three four"}
        usage = response.json()["usage"]
        assert usage["completion_tokens"] == 12
        assert usage["prompt_tokens"] == sum(map(len, prompts))


def test_token_ids_are_the_prompt_as_they_are_and_routed_as_text() -> None:
    engine = StubEngine()
    ids = [*TOKENIZER.encode("sort ü"), TOKENIZER.eos_token_id]
    assert complete(engine, ids).status_code == 200
    assert engine.requests[0].prompt == ids
    assert engine.requests[0].turns == ("sort ü",)


def test_a_text_prompt_is_routed_as_it_is() -> None:
    engine = StubEngine()
    complete(engine, "sort\nthese")
    assert engine.requests[0].turns == ("sort\nthese",)


def test_a_conversation_is_routed_by_its_user_turns() -> None:
    engine = StubEngine()
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "sort "}, {"type": "text", "text": "b a"}]},
        {"role": "assistant", "content": "a b", "refusal": None, "annotations": [], "tool_calls": None},
        {"role": "user", "content": "again", "name": "ann"},
    ]
    response = ask(engine, "/v1/chat/completions", {"model": "twin", "messages": messages})
    assert response.status_code == 200
    assert engine.requests[0].turns == ("sort b a", "again")
    assert TOKENIZER.decode(engine.requests[0].prompt) == (
        "<|system|>be brief<eos><|user|>sort b a<eos><|assistant|>a b<eos><|user|>again<eos><|assistant|>"
    )


def test_a_conversation_without_user_text_is_routed_by_all_of_it() -> None:
    engine = StubEngine()
    messages = [{"role": "system", "content": "sort things"}]
    assert ask(engine, "/v1/chat/completions", {"model": "twin", "messages": messages}).is_success
    assert engine.requests[0].turns == ("sort things",)


@pytest.mark.parametrize(
    ("model", "target"),
    [
        ("twin", Target("dynamic")),
        ("twin:dynamic", Target("dynamic")),
        ("twin:static", Target("static")),
        ("twin:sorting", Target("task", task="sorting")),
        ("twin:sentiment", Target("task", task="sentiment")),
    ],
)
def test_model_ids_name_the_weights(model: str, target: Target) -> None:
    engine = StubEngine()
    body = complete(engine, model=model).json()
    assert body["model"] == model
    assert engine.requests[0].target == target
    routing = body["choices"][0]["routing"]
    assert (routing["confidence"] is None) == (target.kind != "dynamic")


@pytest.mark.parametrize("model", ["twin", "twin:dynamic"])
@pytest.mark.parametrize("mixture", [{"sorting": 0.5, "sentiment": -1}, {}])
def test_mixture_overrides_the_router(model: str, mixture: dict[str, float]) -> None:
    engine = StubEngine()
    response = chat(engine, model=model, mixture=mixture)
    assert engine.requests[0].target == Target("mixture", mixture=mixture)
    routing = response.json()["choices"][0]["routing"]
    assert routing["source"] == "request"
    assert routing["mixture"] == mixture == json.loads(response.headers["x-twinserve-mixture"])


def test_openais_defaults() -> None:
    engine = StubEngine()
    complete(engine, "abc")
    assert engine.requests[0].params == SamplingParams(max_tokens=16, temperature=1.0)
    chat(engine, "abc")
    request = engine.requests[1]
    room = engine.max_model_len - len(request.prompt)
    assert request.params == SamplingParams(max_tokens=room, temperature=1.0)
    complete(engine, "a" * 190)
    assert engine.requests[2].params.max_tokens == 10


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_sampling_fields_reach_the_engine(limit: str) -> None:
    fields: dict[str, Any] = {
        limit: 7,
        "temperature": 0,
        "top_p": 0.5,
        "seed": -3,
        "stop": ["\n", "END"],
        "stop_token_ids": [5, 6],
        "ignore_eos": True,
        "top_k": 40,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "presence_penalty": 2,
        "frequency_penalty": -2.0,
        "logit_bias": {"0": -100, "256": 1.5},
    }
    expected = SamplingParams(
        max_tokens=7,
        temperature=0.0,
        top_p=0.5,
        seed=-3,
        stop=("\n", "END"),
        stop_token_ids=(5, 6),
        ignore_eos=True,
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.1,
        presence_penalty=2.0,
        frequency_penalty=-2.0,
        logit_bias={0: -100.0, 256: 1.5},
    )
    engine = StubEngine()
    complete(engine, **fields)
    chat(engine, **fields)
    assert [request.params for request in engine.requests] == [expected, expected]


@pytest.mark.parametrize("top_k", [-1, 0, None])
def test_a_top_k_that_is_off(top_k: int | None) -> None:
    engine = StubEngine()
    complete(engine, top_k=top_k)
    assert engine.requests[0].params.top_k == 0


def test_one_stop_string_need_not_be_a_list() -> None:
    engine = StubEngine()
    complete(engine, stop="END")
    assert engine.requests[0].params.stop == ("END",)


HARMLESS = {
    "user": "ann",
    "metadata": {"a": "b"},
    "store": False,
    "service_tier": "auto",
    "safety_identifier": "x",
    "prompt_cache_key": "k",
    "parallel_tool_calls": True,
}
NOTHING_ASKED = {"n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}}
NULLS = dict.fromkeys(
    [
        "max_tokens",
        "temperature",
        "top_p",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "mixture",
        "n",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
    ]
)


def test_fields_that_ask_for_nothing_are_accepted() -> None:
    for fields in (
        HARMLESS | NOTHING_ASKED | {"best_of": 1, "echo": False, "suffix": "", "logprobs": None},
        NULLS | {"logprobs": False, "best_of": None, "echo": None},
    ):
        assert complete(StubEngine(), **fields).status_code == 200
    for fields in (
        HARMLESS | NOTHING_ASKED | {"response_format": {"type": "text"}, "tools": [], "logprobs": False},
        NULLS | {"tools": None, "tool_choice": "auto", "response_format": None, "top_logprobs": 0},
    ):
        assert chat(StubEngine(), **fields).status_code == 200


def test_a_prompt_that_fills_the_context_leaving_room_is_served() -> None:
    assert complete(StubEngine(), "a" * 199, max_tokens=1).status_code == 200
    assert complete(StubEngine(), "a" * 150, max_tokens=50).status_code == 200


def test_a_model_without_chat_template_sends_chat_to_completions() -> None:
    engine = StubEngine()
    engine.tokenizer = tokenizer(chat_template=None)
    error = chat(engine).json()["error"]
    assert "/v1/completions" in error["message"]
    assert error["param"] == "messages"
    assert complete(engine).status_code == 200
