"""What routing one prompt takes, beside answering it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.routing.quality import Bench
from router import Prompt, Router, dataless_router
from router.settings import RouterSettings
from router.train import train_router
from serve.engine import Engine
from serve.prompts import chat_ids
from serve.request import GenerationRequest, SamplingParams, Target
from serve.settings import EngineSettings

PROMPTS, ROUNDS, ANSWER = 40, 3, 32


def cost(bench: Bench, threads: int | None) -> dict[str, Any]:
    """Median milliseconds a prompt, alone, tokenisation included; by kind of features, in rounds."""
    prompts = [Prompt(bench.tasks[k], text) for k, text in zip(bench.labels, bench.texts, strict=True)]
    routers: dict[str, Router] = {}
    for kind in bench.settings.features:
        bench.step(f"cost: {kind}")
        settings = bench.settings.model_copy(update={"features": (kind,), "classifiers": ("logistic",)})
        routers[kind] = train_router(bench.model, bench.tokenizer, prompts, bench.tasks, settings)[0]
    table = bench.bundle.table()
    experts = [bench.bundle.expert(task, table) for task in bench.tasks]
    routers["projection"] = dataless_router(bench.model, experts, bench.tasks, RouterSettings())[0]
    texts = [text for _, text in bench.known[:: max(1, len(bench.known) // PROMPTS)]]
    times: dict[str, list[float]] = {name: [] for name in routers}
    for _ in range(ROUNDS):
        for name, router in routers.items():
            # In a row: threads that still spin after another kind's forward pass would be counted here.
            for text in texts:
                times[name].append(_timed(lambda r=router, t=text: _route(bench, r, t)))  # type: ignore[misc]
    bench.step("cost: answers")
    answers = _answers(bench, texts, threads)
    found: dict[str, Any] = {
        "tokens a prompt": statistics.median(len(bench.tokenizer(text)["input_ids"]) for text in texts),
        f"answer of {ANSWER} tokens": 1e3 * statistics.median(answers),
    }
    for name, own in times.items():
        middle = statistics.median(own)
        found[name] = {"milliseconds": 1e3 * middle, "of an answer": middle / statistics.median(answers)}
    return found


def _route(bench: Bench, router: Router, text: str) -> None:
    router.route(bench.model, [router.query(bench.tokenizer, (text,))])


def _answers(bench: Bench, texts: list[str], threads: int | None) -> list[float]:
    """Seconds of prefill and decoding of one prompt at a time by one expert, which needs no router."""
    chosen: dict[str, Any] = {"device": "cpu", "threads": threads, "prefix_memory": 0}
    engine = Engine.open(bench.bundle.path, EngineSettings(**chosen))
    try:
        target = Target("task", task=bench.tasks[0])
        params = SamplingParams(max_tokens=ANSWER, ignore_eos=True)
        seconds = []
        for text in texts:
            ids = chat_ids(engine.tokenizer, [{"role": "user", "content": text}])
            seconds.append(_timed(lambda i=ids: engine.generate([GenerationRequest(i, params, target)])))  # type: ignore[misc]
    finally:
        engine.stop()
    return seconds


def _timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
