"""An engine whose answers wait for the test, which lives in another thread."""

from __future__ import annotations

import asyncio
import threading

from tests.serve.stub_engine import StubEngine


class SteadyEngine(StubEngine):
    """As StubEngine, but events from number ``held_from`` on wait for ``go``, a threading.Event."""

    def __init__(self, held_from: int | None = None) -> None:
        super().__init__()
        self.max_model_len = 1000
        self.held_from = held_from
        self.go = threading.Event()

    async def _step(self, number: int) -> None:
        await super()._step(number)
        while self.held_from is not None and number >= self.held_from and not self.go.is_set():
            await asyncio.sleep(0.01)
