"""Several answers to one prompt: which is which, what they count, and their random numbers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve.request import Event, GenerationRequest
from tests.serve.stub_engine import TOKENIZER, StubEngine, chat, complete, frames


class Echo(StubEngine):
    """Answers with its prompt and seed, in two events."""

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Event]:
        self.requests.append(request)
        routing = self._routing(request)
        yield Event(TOKENIZER.decode(request.prompt), (1,), routing)
        yield Event(f" {request.params.seed}", (2,), routing, "stop")


def texts(response: Any, prompts: int, n: int, stream: bool) -> list[str]:
    found = [""] * (prompts * n)
    if not stream:
        choices = response.json()["choices"]
        assert [choice["index"] for choice in choices] == list(range(prompts * n))
        return [choice["text"] for choice in choices]
    *chunks, done = frames(response)
    assert done == "[DONE]"
    for chunk in chunks:
        (choice,) = chunk["choices"]
        found[choice["index"]] += choice["text"]
    return found


@pytest.mark.parametrize("stream", [False, True])
def test_choices_are_numbered_prompt_by_prompt_and_have_seeds_of_their_own(stream: bool) -> None:
    answers = texts(complete(Echo(), ["a", "b"], n=3, seed=5, stream=stream), 2, 3, stream)
    assert [answer.split()[0] for answer in answers] == ["a", "a", "a", "b", "b", "b"]
    seeds = [int(answer.split()[1]) for answer in answers]
    assert seeds[0] == 5 and len(set(seeds[:3])) == 3
    assert seeds[3:] == seeds[:3], "a prompt's answers do not depend on the prompts beside it"


def test_a_choice_is_the_same_whatever_n_is() -> None:
    few = texts(complete(Echo(), "a", n=2, seed=5), 1, 2, False)
    assert texts(complete(Echo(), "a", n=4, seed=5), 1, 4, False)[:2] == few


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_are_counted_once_and_answers_all(stream: bool) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    response = complete(StubEngine(), ["sort", "b"], n=3, max_tokens=2, **options)
    usage = frames(response)[-2]["usage"] if stream else response.json()["usage"]
    details = usage.pop("prompt_tokens_details")
    assert details == {"cached_tokens": 0}
    assert usage == {"prompt_tokens": 5, "completion_tokens": 12, "total_tokens": 17}


@pytest.mark.parametrize("stream", [False, True])
def test_all_choices_of_a_chat_run_at_once_and_share_the_routing_headers(stream: bool) -> None:
    engine = StubEngine()
    response = chat(engine, n=4, temperature=0, stream=stream)
    assert engine.peak == 4
    assert response.headers["x-twinserve-mixture"] == '{"sorting":1.0}'
    if not stream:
        choices = response.json()["choices"]
        assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
        assert {choice["message"]["content"] for choice in choices} == {"one two three four"}


def test_what_the_engine_refuses_is_refused_before_any_choice_runs() -> None:
    engine = StubEngine()
    engine.refuse = "this bundle has no router"
    assert complete(engine, n=3).status_code == 400
    assert engine.requests == []
