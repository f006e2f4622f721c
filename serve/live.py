"""Generations of a bundle: the next is loaded beside the one that serves, then takes its place at once."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serve.api.surface import EngineSurface
from serve.job import NotReadyError
from serve.request import Event, GenerationRequest

if TYPE_CHECKING:
    from router import Route

log = logging.getLogger(__name__)

WORK = "twinserve-work"

T = TypeVar("T")


class Servant(EngineSurface, Protocol):
    """An engine that serves one generation."""

    @property
    def running(self) -> int:
        """Requests that it is answering."""

    def finish(self) -> None:
        """End once all that has begun has ended; returns then."""

    def stop(self) -> None:
        """End now: what has begun fails."""


Engine = TypeVar("Engine", bound=Servant)
# (bundle, number of the generation, the engine that serves meanwhile) -> an engine that has answered.
Make = Callable[[Path, int, Engine | None], Engine]


class LoadBusyError(RuntimeError):
    """Another bundle is being loaded."""


class GenerationConflictError(RuntimeError):
    """The generation that serves is not the one that was expected."""


@dataclass(eq=False)
class Generation(Generic[Engine]):
    """One bundle's contents. leases: requests that have chosen it and may not have reached it yet."""

    engine: Engine
    bundle: Path
    number: int
    leases: int = 0
    retired: bool = False

    @property
    def requests(self) -> int:
        """Requests that still need it."""
        return max(self.leases, self.engine.running)


class Live(Generic[Engine]):
    """The engine that the API sees, whatever generations come and go. All calls belong to one event loop.

    The model id stays; tasks and all else are those of the generation that serves.
    """

    def __init__(self, name: str, make: Make[Engine]) -> None:
        self.name, self._make = name, make
        self._current: Generation[Engine] | None = None
        self._last = 0
        self.leaving: list[Generation[Engine]] = []
        self.loading: Path | None = None
        self.draining = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self.metrics = CollectorRegistry()
        self.metrics.register(_Metrics(self))

    async def switch(
        self, bundle: Path, expected: int, made: AbstractContextManager[object] | None = None
    ) -> int:
        """Load ``bundle`` as the next generation and serve it from then on; its number.

        expected: the generation that is to be replaced, 0 for none. made: is entered before the bundle is
        opened, and left with the error of a load that fails, both on the loading thread. Requests that have
        begun are answered by their own generation. Once begun, a switch is not given up when its caller is.
        Raises GenerationConflictError when another generation serves, LoadBusyError during another load,
        NotReadyError while draining, and what ``make`` raises; then all is as it was.
        """
        if self.draining:
            raise NotReadyError("the server is shutting down; nothing is loaded any more")
        if self.loading is not None:
            raise LoadBusyError(f"{self.loading.name} is being loaded; try again once it is")
        if expected != self.generation:
            raise GenerationConflictError(
                f"generation {self.generation} serves, not {expected}; look at it again, then decide"
            )
        self.loading = bundle
        return await asyncio.shield(self._keep(self._switch(bundle, made or nullcontext())))

    def drain(self) -> None:
        """Begin nothing any more. What has begun goes on. May be called from a signal handler."""
        self.draining = True

    async def stop(self) -> None:
        """End all engines now; unfinished requests fail with EngineError."""
        self.draining = True
        generations = [*self.leaving, *([self._current] if self._current else [])]
        for generation in generations:
            await in_thread(generation.engine.stop)

    @property
    def current(self) -> Generation[Engine]:
        """The generation that serves. Raises NotReadyError while the first one loads."""
        if self._current is None:
            raise NotReadyError("The model is loading; try again in a moment.")
        return self._current

    @property
    def idle(self) -> bool:
        """Whether no generation has a request left."""
        generations = [*self.leaving, *([self._current] if self._current else [])]
        return not any(generation.requests for generation in generations)

    @contextmanager
    def pinned(self) -> Iterator[EngineSurface]:
        """The engine that answers one request. Raises NotReadyError while there is none."""
        generation = self.current
        generation.leases += 1
        try:
            yield generation.engine
        finally:
            generation.leases -= 1
            self._let_go(generation)

    @property
    def generation(self) -> int:
        """Number of the generation that serves; 0 before the first."""
        return 0 if self._current is None else self._current.number

    @property
    def ready(self) -> bool:
        return self._current is not None and self._current.engine.ready and not self.draining

    @property
    def failed(self) -> bool:
        return self._current is not None and self._current.engine.failed

    @property
    def tasks(self) -> Sequence[str]:
        return self.current.engine.tasks

    @property
    def max_model_len(self) -> int:
        return self.current.engine.max_model_len

    @property
    def tokenizer(self) -> Any:
        return self.current.engine.tokenizer

    def check(self, request: GenerationRequest) -> None:
        self.current.engine.check(request)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Event]:
        with self.pinned() as engine:
            async for event in engine.stream(request):
                yield event

    async def route(self, conversations: Sequence[Sequence[str]]) -> Sequence[Route]:
        with self.pinned() as engine:
            return await engine.route(conversations)

    async def _switch(self, bundle: Path, made: AbstractContextManager[object]) -> int:
        serving = None if self._current is None else self._current.engine
        number = self._last + 1

        def load() -> Engine:
            with made:
                return self._make(bundle, number, serving)

        try:
            engine = await in_thread(load)
        finally:
            self.loading = None
        if self.draining:
            await in_thread(engine.stop)
            raise NotReadyError("the server is shutting down; the bundle was loaded in vain")
        before, self._current = self._current, Generation(engine, bundle, number)
        self._last = number
        log.info("generation %d serves: %s", number, bundle)
        if before is not None:
            before.retired = True
            self.leaving.append(before)
            self._let_go(before)
        return number

    def _let_go(self, generation: Generation[Engine]) -> None:
        if generation.retired and not generation.leases and generation in self.leaving:
            self._keep(self._finish(generation))

    async def _finish(self, generation: Generation[Engine]) -> None:
        await in_thread(generation.engine.finish)
        self.leaving.remove(generation)
        log.info("generation %d has ended", generation.number)
        del generation
        # Modules and their extended forwards hold each other; the weights must not wait for chance.
        self._keep(in_thread(gc.collect))

    def _keep(self, work: Any) -> asyncio.Task[Any]:
        # The event loop itself holds tasks only weakly.
        # In a context of its own: its log lines are not those of the request that happened to come by.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def in_thread(work: Callable[[], T]) -> T:
    """The result of ``work``, run on a thread that does not keep the process from ending, as those of
    asyncio's pool do."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # the work goes on when nobody waits for it any more

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name=WORK, daemon=True)
    thread.start()
    result = await asyncio.wrap_future(future)
    # Until it has ended it holds ``work``, and with that a generation whose memory is waited for.
    thread.join()
    return result


def working() -> bool:
    """Whether a thread of ``in_thread`` still runs, waited for or not."""
    return any(thread.name == WORK for thread in threading.enumerate())


class _Metrics(Collector):
    """The serving generation's own metrics, which begin anew with it, and which generation that is."""

    def __init__(self, live: Live[Any]) -> None:
        self.live = live

    def collect(self) -> Iterator[Metric]:
        live = self.live
        yield GaugeMetricFamily("twinserve_generation", "The generation that serves.", live.generation)
        draining = len(live.leaving)
        yield GaugeMetricFamily("twinserve_generations_draining", "Generations that end.", draining)
        if live.generation:
            yield from live.current.engine.metrics.collect()
