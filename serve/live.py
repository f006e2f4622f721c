"""Generations of a bundle: the next is loaded beside the one that serves, then takes its place at once, or is
held: it answers only requests that ask for it by number, as arms of experiments do."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import Context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serve.api.surface import EngineSurface
from serve.generations import (
    Engine,
    Generation,
    GenerationConflictError,
    GenerationStateError,
    LoadBusyError,
    Make,
    UnknownGenerationError,
)
from serve.job import NotReadyError
from serve.request import Event, GenerationRequest
from serve.threads import in_thread

if TYPE_CHECKING:
    from router import Route

log = logging.getLogger(__name__)


class Live(Generic[Engine]):
    """The engine that the API sees, whatever generations come and go. All calls belong to one event loop.

    The model id stays; tasks and all else are those of the generation that serves. needing: names of the
    experiments whose arms name a bundle by its digest; such a bundle stays loaded. Whoever sets it calls
    ``settle`` when its answers change.
    """

    def __init__(self, name: str, make: Make[Engine]) -> None:
        self.name, self._make = name, make
        self._current: Generation[Engine] | None = None
        self._last = 0
        self.held: list[Generation[Engine]] = []
        self.leaving: list[Generation[Engine]] = []
        self.loading: Path | None = None
        self._replacing = False
        self.draining = False
        self.needing: Callable[[str], Sequence[str]] = lambda digest: ()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.metrics = CollectorRegistry()
        self.metrics.register(_Metrics(self))

    async def switch(
        self,
        bundle: Path,
        expected: int,
        made: AbstractContextManager[object] | None = None,
        *,
        serve: bool = True,
    ) -> int:
        """Load ``bundle`` as the next generation and serve it from then on, or hold it; its number.

        expected: the generation that serves, 0 for none. made: is entered before the bundle is opened, and
        left with the error of a load that fails, both on the loading thread. Requests that have begun are
        answered by their own generation. Once begun, a switch is not given up when its caller is.
        Raises GenerationConflictError when another generation serves, LoadBusyError during another load,
        NotReadyError while draining, and what ``make`` raises; then all is as it was.
        """
        self._check(expected)
        if self.loading is not None:
            raise self._busy(self.loading)
        self.loading, self._replacing = bundle, serve
        return await asyncio.shield(self._keep(self._load(bundle, made or nullcontext(), serve)))

    def promote(self, number: int, expected: int) -> None:
        """Serve a generation that is held; nothing is loaded.

        Raises as ``switch``, UnknownGenerationError, and GenerationStateError for one that has failed.
        """
        self._check(expected)
        generation = self._find(number)
        if generation is self._current:
            return
        if generation.engine.failed:
            raise GenerationStateError(f"generation {number} has failed; load its bundle again")
        if self.loading is not None and self._replacing:
            raise self._busy(self.loading)
        self.held.remove(generation)
        self._serve(generation)

    def release(self, number: int) -> None:
        """Hold a generation no longer: it ends with its requests.

        Raises UnknownGenerationError, and GenerationStateError for the one that serves or that an experiment
        needs.
        """
        if any(generation.number == number for generation in self.leaving):
            return
        generation = self._find(number)
        if generation is self._current:
            raise GenerationStateError(
                f"generation {number} serves; serve another one, and it ends with its requests"
            )
        needing = () if generation.engine.failed else self.needs(generation)
        if needing:
            names = ", ".join(map(repr, needing))
            raise GenerationStateError(f"generation {number} answers for an arm of {names}; stop that first")
        self._retire(generation)

    def settle(self) -> None:
        """Let go of what was held for experiments alone and is needed no longer."""
        for generation in list(self.held):
            if not generation.explicit and not self.needs(generation):
                self._retire(generation)

    def needs(self, generation: Generation[Engine]) -> Sequence[str]:
        """Names of the experiments that could not go on without it."""
        others = [one for one in self.loaded if one is not generation]
        if any(one.digest == generation.digest and not one.engine.failed for one in others):
            return ()
        return self.needing(generation.digest)

    def drain(self) -> None:
        """Begin nothing any more. What has begun goes on. May be called from a signal handler."""
        self.draining = True

    async def stop(self) -> None:
        """End all engines now; unfinished requests fail with EngineError."""
        self.draining = True
        for generation in [*self.leaving, *self.loaded]:
            await in_thread(generation.engine.stop)

    @property
    def current(self) -> Generation[Engine]:
        """The generation that serves. Raises NotReadyError while the first one loads."""
        if self._current is None:
            raise NotReadyError("The model is loading; try again in a moment.")
        return self._current

    @property
    def loaded(self) -> list[Generation[Engine]]:
        """The generations that can be asked by number, the one that serves first."""
        return [*([self._current] if self._current else []), *self.held]

    @property
    def idle(self) -> bool:
        """Whether no generation has a request left."""
        return not any(generation.requests for generation in [*self.leaving, *self.loaded])

    @contextmanager
    def pinned(self, generation: int | None = None) -> Iterator[EngineSurface]:
        """The engine that answers one request: that of the generation that serves, or of another one.

        Raises NotReadyError while there is none, UnknownGenerationError for one that is not loaded.
        """
        chosen = self.current if generation is None else self._find(generation)
        chosen.leases += 1
        try:
            yield chosen.engine
        finally:
            chosen.leases -= 1
            self._let_go(chosen)

    @property
    def engines(self) -> Sequence[EngineSurface]:
        """Of the generations that can be asked by number, the one that serves first. Raises NotReadyError
        while there is none."""
        return [self.current.engine, *(generation.engine for generation in self.held)]

    @property
    def generation(self) -> int:
        """Number of the generation that serves; 0 before the first."""
        return 0 if self._current is None else self._current.number

    @property
    def upcoming(self) -> int:
        """Number of the generation that is loaded next."""
        return self._last + 1

    @property
    def ready(self) -> bool:
        return self._current is not None and self._current.engine.ready and not self.draining

    @property
    def failed(self) -> bool:
        return self._current is not None and self._current.engine.failed

    @property
    def digest(self) -> str:
        return self.current.engine.digest

    @property
    def router(self) -> Any:
        return self.current.engine.router

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

    def _check(self, expected: int) -> None:
        if self.draining:
            raise NotReadyError("the server is shutting down; what it serves changes no more")
        if expected != self.generation:
            raise GenerationConflictError(
                f"generation {self.generation} serves, not {expected}; look at it again, then decide"
            )

    def _busy(self, bundle: Path) -> LoadBusyError:
        return LoadBusyError(f"{bundle.name} is being loaded; try again once it is")

    def _find(self, number: int) -> Generation[Engine]:
        found = next((one for one in self.loaded if one.number == number), None)
        if found is None:
            numbers = ", ".join(str(one.number) for one in self.loaded) or "none"
            raise UnknownGenerationError(f"generation {number} is not loaded; loaded are: {numbers}")
        return found

    async def _load(self, bundle: Path, made: AbstractContextManager[object], serve: bool) -> int:
        serving = None if self._current is None else self._current.engine
        number = self.upcoming

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
        self._last = number
        generation = Generation(engine, bundle, number, explicit=not serve)
        if serve:
            self._serve(generation)
        else:
            self.held.append(generation)
            log.info("generation %d is held: %s", number, bundle)
        return number

    def _serve(self, generation: Generation[Engine]) -> None:
        before, self._current = self._current, generation
        generation.explicit = False
        log.info("generation %d serves: %s", generation.number, generation.bundle)
        if before is not None:
            self.held.append(before)
            if before.engine.failed:
                self._retire(before)
            elif names := self.needs(before):
                log.info("generation %d is held for %s", before.number, ", ".join(names))
        self.settle()

    def _retire(self, generation: Generation[Engine]) -> None:
        self.held.remove(generation)
        generation.retired = True
        self.leaving.append(generation)
        self._let_go(generation)

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


class _Metrics(Collector):
    """The serving generation's own metrics, which begin anew with it, and which generation that is."""

    def __init__(self, live: Live[Any]) -> None:
        self.live = live

    def collect(self) -> Iterator[Metric]:
        live = self.live
        yield GaugeMetricFamily("twinserve_generation", "The generation that serves.", live.generation)
        held, draining = len(live.held), len(live.leaving)
        yield GaugeMetricFamily("twinserve_generations_held", "Generations held beside it.", held)
        yield GaugeMetricFamily("twinserve_generations_draining", "Generations that end.", draining)
        if live.generation:
            yield from live.current.engine.metrics.collect()
