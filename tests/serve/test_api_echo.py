"""Echoed prompts, their log-probabilities, and cached tokens, on the wire."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from itertools import chain
from typing import Any

import pytest

from serve.request import Event, GenerationRequest, TokenLogprob
from tests.serve.stub_engine import ANSWER, TOKENIZER, StubEngine, complete, frames

EOS = TOKENIZER.eos_token_id
Z = TOKENIZER.encode("z")[0]


class Echoing(StubEngine):
    """Scores the prompt's token number i at -i and "z" at -0.5; answers with ANSWER, spelt "!" a token
    (but for its text), each at -0.25. Seven tokens of every prompt were cached."""

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Event]:
        self.requests.append(request)
        routing, params = self._routing(request), request.params
        scores: tuple[TokenLogprob, ...] = ()
        if (top := params.prompt_logprobs) is not None:
            likeliest = ((Z, -0.5), (EOS, -math.inf))[:top]
            scores = tuple(TokenLogprob(t, -float(i), likeliest) for i, t in enumerate(request.prompt) if i)
        words = ANSWER[: params.max_tokens]
        if not words:
            yield Event("", (), routing, "length", (), scores, 7)
        for number, word in enumerate(words, 1):
            found = () if params.logprobs is None else (TokenLogprob(0, -0.25),)
            finish = None if number < len(words) else "length"
            yield Event(word, (0,), routing, finish, found, scores, 7 if number == 1 else 0)  # type: ignore[arg-type]
            scores = ()


def joined(lists: Any) -> list[Any]:
    return list(chain.from_iterable(lists))


def streamed(*args: Any, **fields: Any) -> list[dict[str, Any]]:
    """The chunks of a stream put together again: choices by index, each with text and log-probabilities."""
    *chunks, done = frames(complete(*args, stream=True, **fields))
    assert done == "[DONE]"
    choices: dict[int, list[dict[str, Any]]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            choices.setdefault(choice["index"], []).append(choice)
    whole = []
    for _, parts in sorted(choices.items()):
        found = [part["logprobs"] for part in parts if part["logprobs"]]
        logprobs = {key: joined(one[key] for one in found) for key in found[0]} if found else None
        whole.append({"text": "".join(part["text"] for part in parts), "logprobs": logprobs})
    return whole


def whole(*args: Any, **fields: Any) -> list[dict[str, Any]]:
    response = complete(*args, **fields)
    assert response.status_code == 200, response.text
    return [{key: one[key] for key in ("text", "logprobs")} for one in response.json()["choices"]]


BOTH = pytest.mark.parametrize("answered", [whole, streamed])


@BOTH
@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("né", ["né"]),
        (["né", "sort"], ["né", "sort"]),
        (TOKENIZER.encode("né"), ["né"]),
        ([TOKENIZER.encode("né"), TOKENIZER.encode("sort")], ["né", "sort"]),
    ],
    ids=["text", "texts", "ids", "lists of ids"],
)
def test_every_kind_of_prompt_is_echoed_before_each_of_its_answers(
    answered: Any, prompt: Any, texts: list[str]
) -> None:
    choices = answered(Echoing(), prompt, echo=True, n=2, max_tokens=2)
    assert [choice["text"] for choice in choices] == [f"{text}one two" for text in texts for _ in range(2)]
    assert all(choice["logprobs"] is None for choice in choices)


@BOTH
def test_log_probabilities_have_the_legacy_shape(answered: Any) -> None:
    for choice in answered(Echoing(), "né", echo=True, logprobs=1, max_tokens=2, n=2):
        assert choice["text"] == "néone two"
        assert choice["logprobs"] == {
            "tokens": ["n", "bytes:\\xc3", "bytes:\\xa9", "!", "!"],
            "token_logprobs": [None, -1.0, -2.0, -0.25, -0.25],
            "top_logprobs": [
                None,
                {"z": -0.5, "bytes:\\xc3": -1.0},
                {"z": -0.5, "bytes:\\xa9": -2.0},
                {"!": -0.25},
                {"!": -0.25},
            ],
            "text_offset": [0, 1, 1, 2, 3],
        }


@BOTH
def test_a_prompt_can_be_scored_without_an_answer(answered: Any) -> None:
    engine = Echoing()
    (choice,) = answered(engine, "abc", echo=True, logprobs=0, max_tokens=0)
    assert choice["text"] == "abc"
    assert choice["logprobs"] == {
        "tokens": ["a", "b", "c"],
        "token_logprobs": [None, -1.0, -2.0],
        "top_logprobs": [None, {"b": -1.0}, {"c": -2.0}],
        "text_offset": [0, 1, 2],
    }
    params = engine.requests[0].params
    assert (params.max_tokens, params.prompt_logprobs) == (0, 0)
    (choice,) = answered(Echoing(), "a", echo=True, logprobs=5, max_tokens=0)
    assert choice["logprobs"]["token_logprobs"] == choice["logprobs"]["top_logprobs"] == [None]
    (choice,) = answered(Echoing(), "abc", echo=True, max_tokens=0)
    assert choice == {"text": "abc", "logprobs": None}


def test_special_tokens_are_scored_and_have_no_text() -> None:
    (choice,) = whole(Echoing(), [EOS, *TOKENIZER.encode("ab")], echo=True, logprobs=2, max_tokens=1)
    assert choice["text"] == "abone"
    assert choice["logprobs"]["tokens"] == ["<eos>", "a", "b", "!"]
    assert choice["logprobs"]["text_offset"] == [0, 0, 1, 2]
    assert choice["logprobs"]["top_logprobs"][1] == {"z": -0.5, "<eos>": -9999.0, "a": -1.0}


def test_prompts_are_scored_only_where_both_fields_ask_for_it() -> None:
    for fields in ({"echo": True}, {"logprobs": 3}, {"echo": False, "logprobs": 3}, {"echo": None}):
        engine = Echoing()
        complete(engine, **fields)
        assert engine.requests[0].params.prompt_logprobs is None
        assert engine.requests[0].joined == (fields.get("echo") is True)


def test_the_prompt_may_fill_the_context_where_nothing_is_generated() -> None:
    assert complete(Echoing(), "a" * 200, echo=True, max_tokens=0).status_code == 200
    for length, tokens, most in ((201, 0, 200), (200, 1, 199)):
        error = complete(Echoing(), "a" * length, echo=True, max_tokens=tokens).json()["error"]
        assert error["code"] == "context_length_exceeded" and f"at most {most} tokens" in error["message"]


def test_no_tokens_and_no_echo_is_refused() -> None:
    error = complete(Echoing(), max_tokens=0).json()["error"]
    assert error["param"] == "max_tokens" and "'echo' true" in error["message"]


def test_the_router_reads_no_further_than_it_may() -> None:
    engine = Echoing()
    ids = TOKENIZER.encode("sort these")
    complete(engine, ["sort these", "a b"], route_tokens=[4, 1])
    complete(engine, [ids, ids], route_tokens=6)
    complete(engine, "sort these", route_tokens=100)
    complete(engine, "sort these", echo=True, logprobs=0)
    read = [(request.turns, request.route_tokens) for request in engine.requests]
    assert read[:2] == [(("sort",), 4), (("a",), 1)]
    assert read[2:4] == [(("sort t",), 6)] * 2
    assert read[4:] == [(("sort these",), 100), (("sort these",), None)]
    assert [request.prompt for request in engine.requests[2:4]] == [ids] * 2


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "greater"),
        ([1, 0], "greater"),
        ([1, 2, 3], "2 prompts and 3 numbers"),
        ([], "2 prompts and 0 numbers"),
        ("4", "list"),
        (True, "list"),
    ],
)
def test_route_tokens_that_make_no_sense(value: Any, words: str) -> None:
    error = complete(Echoing(), ["a", "b"], route_tokens=value).json()["error"]
    assert error["param"].startswith("route_tokens") and words in error["message"]


def test_a_context_without_words_is_refused() -> None:
    error = complete(Echoing(), "  sort", route_tokens=2).json()["error"]
    assert error["param"] == "prompt" and "no text to route" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_cached_tokens_count_each_prompt_once(stream: bool) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    response = complete(Echoing(), ["sort these", "and these"], n=3, **options)
    usage = frames(response)[-2]["usage"] if stream else response.json()["usage"]
    assert usage["prompt_tokens"] == 19 and usage["completion_tokens"] == 24
    assert usage["prompt_tokens_details"] == {"cached_tokens": 14}
