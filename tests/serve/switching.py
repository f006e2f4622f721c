"""Live engines for tests: stubs that can be switched, and bundles that differ in one answer."""

from __future__ import annotations

import asyncio
import functools
import shutil
import time
from collections.abc import Callable, Coroutine
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from prometheus_client import CollectorRegistry

from compress.errors import InputError
from serve.engine import Engine
from serve.live import Live
from serve.opener import opener
from serve.settings import EngineSettings
from tests.bundles import Zoo, adapter_zoo
from tests.serve.packed import COSTS
from tests.serve.stub_engine import StubEngine


class StubGeneration(StubEngine):
    """A stub that can end. ended: how."""

    def __init__(self, number: int, tasks: list[str]) -> None:
        super().__init__()
        self.generation, self.tasks = number, tasks
        self.digest = sha256(".".join(tasks).encode()).hexdigest()
        self.metrics = CollectorRegistry()
        self.ended: str | None = None

    def finish(self) -> None:
        while self.running:
            time.sleep(0.002)
        self.ended = "finished"

    def stop(self) -> None:
        self.ended = "stopped"


def stub_live() -> Live[StubGeneration]:
    """Serves any path; its name, split at dots, is the list of tasks. ``bad`` cannot be loaded."""

    def make(bundle: Path, number: int, beside: StubGeneration | None) -> StubGeneration:
        if bundle.name == "bad":
            raise InputError(f"{bundle}: not a bundle")
        return StubGeneration(number, bundle.name.split("."))

    return Live("twin", make)


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine, run in an event loop of its own, for two minutes at most."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **fixtures), 120))

    return run


async def until(condition: Any, seconds: float = 10) -> None:
    """Wait for ``condition()``; an assertion after ``seconds``."""
    for _ in range(int(seconds / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("waited in vain")


SETTINGS = EngineSettings(slots=16, threads=1, costs=COSTS)


def zoos(folder: Path) -> list[Zoo]:
    """Two bundles of one base whose experts have the same names and other weights."""
    return [adapter_zoo(folder / name, "llama", seed=seed) for name, seed in (("one", 20), ("two", 40))]


def real_live(settings: EngineSettings = SETTINGS) -> Live[Engine]:
    """Real engines; to be stopped by whoever asks for it."""
    return Live("tiny", opener(settings, "tiny"))


def greedy(zoo: Zoo, mixture: dict[str, float], prompt: list[int], tokens: int) -> list[int]:
    """The dense float64 reference's own answer, past the end of text too; nothing of the engine is used."""
    reference, out = zoo.reference(mixture), list[int]()
    with torch.no_grad():
        for _ in range(tokens):
            logits = reference(input_ids=torch.tensor([prompt + out])).logits[0, -1]
            out.append(int(logits.argmax()))
    return out


def copied(bundle: Path, place: Path) -> Path:
    """A bundle of its own files, to be damaged."""
    shutil.copytree(bundle, place)
    return place
