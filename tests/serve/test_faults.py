"""What fails inside the engine, seen from outside: the others get right answers, and the engine goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from serve.api.app import create_app
from serve.engine import Engine
from serve.mixture import MixtureModel
from serve.runner import Runner
from tests import tiny
from tests.bundles import Zoo
from tests.serve.packed import engine_of
from tests.serve.switching import greedy, in_loop, until

TOKENS = 8
PROMPTS = [tiny.prompt(seed, 6) for seed in range(4)]


@pytest.fixture
def tiny_zoo(zoo: Callable[[str, str], Zoo]) -> Zoo:
    return zoo("adapter", "llama")


async def ask(engine: Engine, prompt: list[int], **fields: Any) -> httpx.Response:
    body = {"prompt": prompt, "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0, **fields}
    transport = httpx.ASGITransport(create_app(engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as http:
        return await http.post("/v1/completions", json={"model": "tiny:t0", **body}, timeout=30)


def right(zoo: Zoo, response: httpx.Response, prompt: list[int], mixture: dict[str, float]) -> bool:
    assert response.status_code == 200, response.text
    expected = tiny.tokenizer().decode(greedy(zoo, mixture, prompt, TOKENS), skip_special_tokens=True)
    return bool(response.json()["choices"][0]["text"] == expected)


@in_loop
async def test_a_decode_step_that_fails_for_one_leaves_the_others_right(
    tiny_zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(tiny_zoo)
    guilty, passes = PROMPTS[0], Runner._pass
    failed: list[int] = []

    def one_fails(self: Runner, part: Any, work: Any, items: Any, results: Any, *more: Any) -> None:
        # Decoding, not prefill: its last token is the third of the answer.
        for index in part.members:
            segment = work[index].segment
            if (
                segment.start == len(guilty) + 2
                and len(segment.tokens) == 1
                and work[index].weights == weights
            ):
                failed.append(len(part.members))
                raise RuntimeError("injected")
        passes(self, part, work, items, results, *more)

    weights = engine.chooser.weights({"t1": 1.0})
    try:
        monkeypatch.setattr(Runner, "_pass", one_fails)
        first, *others = await asyncio.gather(
            ask(engine, guilty, model="tiny:t1"), *(ask(engine, prompt) for prompt in PROMPTS[1:])
        )
        assert first.status_code == 503 and first.json()["error"]["code"] == "engine_failed"
        assert max(failed) > 1, "it was never in a batch with others"
        for prompt, response in zip(PROMPTS[1:], others, strict=True):
            assert right(tiny_zoo, response, prompt, {"t0": 1.0})
        monkeypatch.undo()
        assert right(tiny_zoo, await ask(engine, guilty, model="tiny:t1"), guilty, {"t1": 1.0})
    finally:
        engine.stop()


@in_loop
async def test_composing_without_memory_falls_back_to_factors(
    tiny_zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(tiny_zoo, composition="composed")
    asked: list[Any] = []

    def full(self: MixtureModel, g: Any) -> Any:
        asked.append(g)
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes")

    try:
        monkeypatch.setattr(MixtureModel, "compose", full)
        assert right(tiny_zoo, await ask(engine, PROMPTS[0]), PROMPTS[0], {"t0": 1.0})
        assert asked and engine.planner.passes["factored"] and not engine.planner.passes["composed"]
        assert right(tiny_zoo, await ask(engine, PROMPTS[1]), PROMPTS[1], {"t0": 1.0})
    finally:
        engine.stop()


@in_loop
async def test_a_dead_thread_ends_its_requests_and_health_says_so(
    tiny_zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(tiny_zoo)
    transport = httpx.ASGITransport(create_app(engine))

    def die() -> None:
        raise SystemExit

    monkeypatch.setattr(engine.steps, "step", die)
    assert (await ask(engine, PROMPTS[0])).status_code == 503
    await until(lambda: engine.failed)
    async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as http:
        assert (await http.get("/health")).status_code == (await http.get("/ready")).status_code == 503
    engine.stop()


def test_an_engine_that_was_stopped_has_not_failed(tiny_zoo: Zoo) -> None:
    for end in (Engine.stop, Engine.finish):
        engine = engine_of(tiny_zoo)
        end(engine)
        assert not engine.ready and not engine.failed
