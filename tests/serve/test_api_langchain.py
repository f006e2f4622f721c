"""LangChain's chat model against a real engine behind a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.serve.server import serving
from tests.serve.structured import engine_of_json, tokenizer


class Verdict(BaseModel):
    """What a review says."""

    label: Literal["good", "bad"]
    sure: bool


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    engine = engine_of_json(tmp_path_factory.mktemp("langchain"))
    try:
        with serving(engine) as url:
            yield url
    finally:
        engine.stop()


def model(address: str, **options: Any) -> ChatOpenAI:
    chosen = {"temperature": 0, "max_tokens": 60, "max_retries": 0, "timeout": 60, **options}
    return ChatOpenAI(model="tiny:static", base_url=address, api_key="none", **chosen)


def test_invoke(address: str) -> None:
    answer = model(address).invoke(
        [("system", "Be brief."), ("human", "A joy."), ("ai", "good"), ("human", "?")]
    )
    assert isinstance(answer.content, str) and answer.content
    assert answer.response_metadata["finish_reason"] in ("stop", "length")
    used = answer.usage_metadata
    assert used is not None and used["input_tokens"] > 20 and 0 < used["output_tokens"] <= 60
    assert used["total_tokens"] == used["input_tokens"] + used["output_tokens"]


def test_a_stream_is_the_same_answer_and_counts_the_same(address: str) -> None:
    whole = model(address).invoke("A joy.")
    chunks = list(model(address, stream_usage=True).stream("A joy."))
    joined = chunks[0]
    for chunk in chunks[1:]:
        joined += chunk
    assert len(chunks) > 5 and joined.content == whole.content
    assert joined.usage_metadata == whole.usage_metadata


def test_batches(address: str) -> None:
    asked = ["A joy.", "A bore.", "So so."]
    together = model(address).batch(asked)
    assert [one.content for one in together] == [model(address).invoke(text).content for text in asked]


@pytest.mark.parametrize("temperature", [0, 1])
def test_structured_output(address: str, temperature: float) -> None:
    chain = model(address, temperature=temperature, seed=1, max_tokens=400).with_structured_output(
        Verdict, method="json_schema", include_raw=True
    )
    found = chain.invoke("A joy.")
    assert isinstance(found["parsed"], Verdict) and found["parsing_error"] is None


def test_json_mode(address: str) -> None:
    # A random model would not come to an end by itself.
    closing = {tokenizer().convert_tokens_to_ids("}"): 100}
    chosen = model(address, logit_bias=closing).with_structured_output(
        Verdict, method="json_mode", include_raw=True
    )
    assert isinstance(json.loads(chosen.invoke("Answer as JSON: a joy.")["raw"].content), dict)
