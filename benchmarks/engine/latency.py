"""What a user waits for: what routing adds to the first token, what a known prefix saves, and how long a
running answer stalls while a long prompt arrives.

    python -m benchmarks.engine.latency bundles/quickstart
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from compress.bundle import Bundle
from router import user_turns
from serve.engine import Engine
from serve.evaluate import read_data
from serve.prompts import chat_ids
from serve.request import GenerationRequest, SamplingParams, Target
from serve.settings import EngineSettings

RESULT = Path("benchmarks/results/engine_latency.json")
SYSTEM_TOKENS, LONG_PROMPT, STREAMS = 256, 2048, 4


def main(
    bundle: Annotated[Path, typer.Argument(help="A bundle with a router.")],
    data: Annotated[Path, typer.Option(help="Prompts: <task>.jsonl.")] = Path("examples/zoo/data/test"),
    prompts: Annotated[int, typer.Option(min=4, help="Prompts in all.")] = 40,
    rounds: Annotated[int, typer.Option(min=1, help="Long prompts.")] = 5,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Print medians in milliseconds."""
    tasks = Bundle.open(bundle).tasks
    each = read_data(data, tasks, -(-prompts // len(tasks)))
    messages = [(task, item.messages) for task, items in each.items() for item in items]
    random.Random(0).shuffle(messages)
    facts: dict[str, Any] = {"bundle": bundle.name, "threads": threads, "prompts": len(messages)}
    screen = Console(highlight=False)

    for what, ask, settings in (
        ("first_token", _routing, {"prefix_memory": 0}),
        ("system_prompt", _prefixes, {}),
    ):
        engine = _open(bundle, threads=threads, **settings)
        try:
            waits = asyncio.run(ask(engine, messages))
        finally:
            engine.stop()
        facts[what] = {name: _milliseconds(values) for name, values in waits.items()}
        for name, values in facts[what].items():
            screen.print(f"first token, {name:<24}{values['p50']:7.1f} ms (p95 {values['p95']:.1f})")

    facts["stall"] = {}
    gaps: dict[int, list[float]] = {}
    firsts: dict[int, list[float]] = {}
    for step in (LONG_PROMPT, 256, 64):
        # One at a time: a second engine's OpenMP threads would slow both of them down.
        engine = _open(bundle, threads=threads, step_tokens=step, prefix_memory=0)
        try:
            seen = [
                asyncio.run(_stall(engine, number))
                for number in track(range(rounds), description="long prompts", transient=True)
            ]
        finally:
            engine.stop()
        gaps[step], firsts[step] = [worst for worst, _ in seen], [first for _, first in seen]
    for step, values in gaps.items():
        facts["stall"][str(step)] = {
            "longest_gap": statistics.median(values) * 1e3,
            "first_token": statistics.median(firsts[step]) * 1e3,
        }
        screen.print(
            f"a prompt of {LONG_PROMPT} tokens, {step:>4} a step: {STREAMS} running answers stall "
            f"{statistics.median(values) * 1e3:.0f} ms at most, its own first token after "
            f"{statistics.median(firsts[step]) * 1e3:.0f} ms"
        )
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(facts, indent=2) + "\n")


def _open(bundle: Path, **settings: Any) -> Engine:
    return Engine.open(bundle, EngineSettings(device="cpu", **settings))


async def _routing(engine: Engine, messages: list[tuple[str, Any]]) -> dict[str, list[float]]:
    """Each prompt alone: with its expert named, routed, and routed once more."""
    waits: dict[str, list[float]] = {"expert named": [], "routed": [], "routed again": []}
    for task, one in track(messages, description="routing", transient=True):
        ids, turns = chat_ids(engine.tokenizer, one), user_turns(one)
        waits["expert named"].append(await _first(engine, ids, Target("task", task=task)))
        for name in ("routed", "routed again"):
            waits[name].append(await _first(engine, ids, Target("dynamic"), turns))
    return waits


async def _prefixes(engine: Engine, messages: list[tuple[str, Any]]) -> dict[str, list[float]]:
    """Prompts after a long system prompt: a new one each time, or one in common."""
    chooser = random.Random(1)
    vocabulary = engine.mixture.model.get_input_embeddings().num_embeddings
    waits: dict[str, list[float]] = {"own system prompt": [], "common system prompt": []}

    def system() -> list[int]:
        return [chooser.randrange(100, vocabulary) for _ in range(SYSTEM_TOKENS)]

    common = system()
    for task, _ in messages:
        await _first(engine, [*common, 100], Target("task", task=task))
    for task, one in track(messages, description="prefixes", transient=True):
        ids = chat_ids(engine.tokenizer, one)
        target = Target("task", task=task)
        waits["own system prompt"].append(await _first(engine, [*system(), *ids], target))
        waits["common system prompt"].append(await _first(engine, [*common, *ids], target))
    return waits


async def _stall(engine: Engine, seed: int) -> tuple[float, float]:
    """The longest time between two tokens of running answers while a long prompt comes in, and the
    time to that prompt's first token."""
    chooser = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [chooser.randrange(100, 10_000) for _ in range(count)]

    ready, over = asyncio.Event(), asyncio.Event()
    times: list[list[float]] = [[] for _ in range(STREAMS)]

    async def answer(number: int) -> None:
        asked = GenerationRequest(
            ids(32), SamplingParams(max_tokens=1000, ignore_eos=True), Target("task", task=engine.tasks[0])
        )
        async for _ in engine.stream(asked):
            times[number].append(time.perf_counter())
            if all(len(one) > 5 for one in times):
                ready.set()
            if over.is_set():
                return

    running = [asyncio.create_task(answer(number)) for number in range(STREAMS)]
    await ready.wait()
    began = time.perf_counter()
    first = await _first(engine, ids(LONG_PROMPT), Target("task", task=engine.tasks[0]))
    over.set()
    await asyncio.gather(*running)
    gaps = [later - sooner for one in times for sooner, later in pairwise(one) if later > began]
    return max(gaps), first


async def _first(engine: Engine, ids: list[int], target: Target, turns: tuple[str, ...] = ()) -> float:
    asked = GenerationRequest(ids, SamplingParams(max_tokens=2, ignore_eos=True), target, turns)
    began = time.perf_counter()
    stream = engine.stream(asked)
    await anext(stream)
    taken = time.perf_counter() - began
    async for _ in stream:
        pass
    return taken


def _milliseconds(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"p50": statistics.median(ordered) * 1e3, "p95": ordered[int(0.95 * (len(ordered) - 1))] * 1e3}


if __name__ == "__main__":
    typer.run(main)
