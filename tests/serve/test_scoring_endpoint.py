"""Scoring through the real engine and server, by the openai client: numbers of the dense models."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
import torch

from serve.engine import Engine
from serve.settings import EngineSettings
from tests import tiny
from tests.bundles import Zoo, adapter_zoo
from tests.serve.routed import add_router
from tests.serve.server import serving

NEAR = 1e-4
PROMPT = "spell 7 then 5 = PAINT 3 OVER 4, and 9 + 4 = 13"
TOKENIZER = tiny.tokenizer()


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    zoo = adapter_zoo(tmp_path_factory.mktemp("scoring"), "llama")
    add_router(zoo.bundle.path, features="hidden")
    return zoo


@pytest.fixture
def client(routed: Zoo) -> Iterator[openai.OpenAI]:
    # Anew for each test: what the prefix cache holds is part of what is tested.
    engine = Engine.open(routed.bundle.path, EngineSettings(slots=4), name="tiny")
    try:
        with (
            serving(engine) as address,
            openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60) as made,
        ):
            yield made
    finally:
        engine.stop()


def reference(zoo: Zoo, mixture: dict[str, float], ids: list[int]) -> torch.Tensor:
    """Log-probabilities [tokens - 1, vocabulary] of the dense float64 model."""
    with torch.no_grad():
        logits = zoo.reference(mixture)(input_ids=torch.tensor([ids])).logits[0, :-1]
    return logits.log_softmax(-1)


def check(zoo: Zoo, mixture: dict[str, float], choice: openai.types.CompletionChoice, top: int) -> None:
    """A choice's log-probabilities are the reference's, token by token."""
    found = choice.logprobs
    assert found is not None and found.tokens and found.token_logprobs and found.top_logprobs
    ids = TOKENIZER.convert_tokens_to_ids(found.tokens)
    every = reference(zoo, mixture, ids)
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
    for row, token, logprob, likeliest in zip(
        every, ids[1:], found.token_logprobs[1:], found.top_logprobs[1:], strict=True
    ):
        assert logprob == pytest.approx(float(row[token]), abs=NEAR)
        best = {TOKENIZER.convert_ids_to_tokens(i): float(row[i]) for i in row.topk(top).indices.tolist()}
        assert likeliest == pytest.approx(best | {TOKENIZER.convert_ids_to_tokens(token): logprob}, abs=NEAR)
    texts = [token if token not in TOKENIZER.all_special_tokens else "" for token in found.tokens]
    assert choice.text == "".join(texts)
    assert found.text_offset == [sum(map(len, texts[:i])) for i in range(len(texts))]


@pytest.mark.parametrize(
    ("model", "extra", "mixture"),
    [
        ("tiny:static", {}, {}),
        ("tiny:t1", {}, {"t1": 1.0}),
        ("tiny", {"mixture": {"t0": 0.5, "t2": 0.25}}, {"t0": 0.5, "t2": 0.25}),
        ("tiny", {"route_tokens": len("spell 7 then 5")}, {"t1": 1.0}),
    ],
)
def test_echoed_prompts_are_scored_by_the_weights_that_were_named(client, routed, model, extra, mixture):
    ids = TOKENIZER.encode(PROMPT)
    texts = client.completions.create(
        model=model, prompt=[PROMPT, PROMPT], echo=True, logprobs=2, max_tokens=0, extra_body=extra
    )
    tokens = client.completions.create(
        model=model,
        prompt=ids,
        echo=True,
        logprobs=2,
        max_tokens=3,
        n=2,
        seed=5,
        extra_body={**extra, "ignore_eos": True},
    )
    assert [choice.text for choice in texts.choices] == [PROMPT] * 2
    assert len({choice.text for choice in tokens.choices}) == 2
    assert tokens.usage is not None and tokens.usage.completion_tokens == 6
    for choice in (*texts.choices, *tokens.choices):
        assert choice.finish_reason == "length" and choice.text.startswith(PROMPT)
        assert choice.routing["mixture"] == mixture  # type: ignore[attr-defined]
        check(routed, mixture, choice, 2)


def test_a_stream_says_the_same(client, routed):
    fields = {"model": "tiny:t2", "prompt": PROMPT, "logprobs": 1, "max_tokens": 4, "seed": 3, "echo": True}
    whole = client.completions.create(**fields).choices[0]
    chunks = [chunk.choices[0] for chunk in client.completions.create(**fields, stream=True)]
    assert "".join(chunk.text for chunk in chunks) == whole.text
    parts = [chunk.logprobs for chunk in chunks if chunk.logprobs]
    assert whole.logprobs is not None
    for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [one for part in parts for one in getattr(part, key)] == getattr(whole.logprobs, key)
    check(routed, {"t2": 1.0}, whole, 1)


def test_a_router_that_read_the_scored_text_says_so(client):
    """The end of this text is another task's: the router is led astray by what it should not see."""
    question = "spell 7 then 5"
    fields = {"model": "tiny", "prompt": question + " PAINT 3 OVER 4" * 4, "max_tokens": 0, "echo": True}
    read = client.completions.create(**fields, logprobs=0).choices[0].routing
    kept = client.completions.create(**fields, logprobs=0, extra_body={"route_tokens": len(question)})
    assert read["source"] == "router_on_scored_prompt" and read["mixture"] != {"t1": 1.0}
    assert kept.choices[0].routing["source"] == "router"
    assert kept.choices[0].routing["mixture"] == {"t1": 1.0}
    assert client.completions.create(**fields).choices[0].routing["source"] == "router"


@pytest.mark.parametrize("kind", ["completions", "chat"])
def test_usage_tells_what_the_prefix_cache_had(client, kind):
    words = "count the words of this sentence that is longer than one block of the prefix cache"

    def cached(stream: bool, model: str = "tiny:t1") -> tuple[int, int]:
        fields = {"model": model, "max_tokens": 2, "n": 2, "temperature": 0}
        if stream:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        if kind == "chat":
            made = client.chat.completions.create(messages=[{"role": "user", "content": words}], **fields)
        else:
            made = client.completions.create(prompt=words, **fields)
        usage = list(made)[-1].usage if stream else made.usage
        return usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens

    (tokens, first), (_, second), (_, streamed) = cached(False), cached(False), cached(True)
    blocks = (tokens - 1) // 32 * 32
    assert (first, second, streamed) == (0, blocks, blocks) and blocks >= 64
    assert cached(True, "tiny:t2") == (tokens, 0), "other weights have other keys"


def test_stop_and_seed_act_on_the_answer_alone(client):
    fields = {"model": "tiny:t0", "prompt": PROMPT, "max_tokens": 12, "seed": 11}
    plain = client.completions.create(**fields).choices[0].text
    echoed = client.completions.create(**fields, echo=True).choices[0].text
    assert echoed == PROMPT + plain
    stop = plain[5:7]
    stopped = client.completions.create(**fields, echo=True, stop=[stop, "PAINT 3"]).choices[0]
    assert stopped.text == PROMPT + plain[: plain.find(stop)] and stopped.finish_reason == "stop"
