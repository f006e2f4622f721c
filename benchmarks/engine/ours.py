"""twinserve's own engine, asked through its public interface."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.engine.protocol import Answers, Progress, Result, Workload
from compress.bundle import Bundle
from serve.engine import Engine
from serve.request import GenerationRequest, SamplingParams, Target
from serve.settings import EngineSettings


class Ours:
    name = "twinserve"
    answers: Answers = "any mixture"

    def __init__(self, bundle: Bundle, slots: int, threads: int, max_len: int) -> None:
        # Every round asks the same prompts again, and no other contender may remember them.
        settings: dict[str, Any] = {"slots": slots, "threads": threads, "max_model_len": max_len}
        settings["prefix_memory"] = 0
        self.engine = Engine.open(bundle.path, EngineSettings(device="cpu", dtype="float32", **settings))

    def run(self, workload: Workload) -> Result:
        return asyncio.run(self._run(workload))

    async def _run(self, workload: Workload) -> Result:
        progress = Progress(workload)

        async def ask(number: int) -> None:
            request = workload[number]
            if request.arrival:
                await asyncio.sleep(request.arrival)
            asked = GenerationRequest(
                prompt=request.prompt,
                params=SamplingParams(max_tokens=request.new_tokens, ignore_eos=True),
                target=Target("mixture", mixture=request.mixture),
            )
            async for event in self.engine.stream(asked):
                progress.take(number, event.token_ids)

        await asyncio.gather(*map(ask, range(len(workload))))
        return progress.result()

    def close(self) -> None:
        self.engine.stop()
