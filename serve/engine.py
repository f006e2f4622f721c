"""The engine: one thread that routes, prefills and decodes; requests of any mixture share a batch."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from prometheus_client import CollectorRegistry

from compress.bundle import Bundle
from compress.errors import InputError
from compress.loading import load_tokenizer
from router import Query, Route, Router, load_router
from serve import sampler
from serve.checks import check_request, fitting_length
from serve.choice import Chooser
from serve.costs import calibrate
from serve.detokenizer import Detokenizer
from serve.endings import ending_ids
from serve.grammar import Constraint, Grammars
from serve.hotload import check_memory, private_copy
from serve.job import Answer, EngineError, Job, Sink, collect
from serve.kvcache import SlotCache, position_bytes
from serve.metrics import EngineMetrics
from serve.mixture import MixtureModel
from serve.observer import Observer
from serve.planner import Planner
from serve.prefix import PrefixCache
from serve.request import Event, GenerationRequest
from serve.runner import Runner
from serve.scheduler import Entry, Scheduler
from serve.selfcheck import check_decoder
from serve.settings import EngineSettings, fast_on_cpu
from serve.steps import Steps
from serve.times import Times

log = logging.getLogger(__name__)

THREAD = "twinserve-engine"


class Engine:
    """Serves one bundle. Made by ``open`` or ``launch``; only the engine's own thread runs the model."""

    def __init__(
        self,
        mixture: MixtureModel,
        tokenizer: Any,
        settings: EngineSettings,
        *,
        name: str = "model",
        scalings: dict[str, float] | None = None,
        router: Router | None = None,
        generation: int = 1,
        tasks: Sequence[str] | None = None,
        digest: str = "",
    ) -> None:
        config = mixture.model.config.get_text_config(decoder=True)
        self.name, self.tokenizer, self.router, self.generation = name, tokenizer, router, generation
        # Some experts may only be there for the shared base.
        self.mixture, self.tasks = mixture, mixture.tasks if tasks is None else list(tasks)
        weight = next(mixture.model.parameters())
        cost = position_bytes(config, weight.dtype)
        self.max_model_len = fitting_length(config, settings, cost)
        self.timeout, self.digest = settings.request_timeout, digest
        self.planner = Planner(
            mixture,
            settings.costs or calibrate(mixture),
            # Room for the shared base, which answers static and unknown prompts, and one mixture more.
            2 * mixture.parameter_bytes if settings.composed_memory is None else settings.composed_memory,
            settings.composition,
            settings.static(),
        )
        self.chooser = Chooser(mixture, self.planner, router, scalings, generation)
        self.planner.pin(self.chooser.shared)
        self.scheduler: Scheduler[Job] = Scheduler(
            settings.slots, int(settings.kv_memory), cost, settings.step_tokens
        )
        self.prefixes = PrefixCache(int(settings.prefix_memory))
        runner = Runner(mixture, SlotCache(config, settings.static()), self.planner)
        check_decoder(runner)
        # Nobody asked for the passes of the check.
        self.planner.passes.clear()
        self.observer = Observer(settings.metrics.prefix, name)
        self.observer.knows(self.tasks)
        eos = ending_ids(mixture.model, tokenizer)
        self.steps = Steps(self.scheduler, runner, self.chooser, self.prefixes, eos, self.observer)
        self.grammars = Grammars(tokenizer, eos)
        # Of its own, so that several engines in one process do not meet.
        self.metrics = CollectorRegistry()
        self.metrics.register(EngineMetrics(self))
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._running = self._ending = False
        # Streams that are open, but for those of the background; counted by the event loop's thread alone.
        self.running = 0
        # Nothing may enter the inbox once its last emptying has begun, or its sender would wait for ever.
        self._gate = threading.Lock()
        self._thread: threading.Thread | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        settings: EngineSettings,
        name: str | None = None,
        generation: int = 1,
        beside: Engine | None = None,
    ) -> Engine:
        """Open a bundle, verified, and start serving it.

        beside: an engine that goes on serving meanwhile, whose base weights are shared where they are the
        same. Raises InputError when the bundle or the model cannot be served.
        """
        return cls.launch(lambda: cls._load(path, settings, name, generation, beside), settings.threads)

    @classmethod
    def launch(cls, make: Callable[[], Engine], threads: int | None = None) -> Engine:
        """Make an engine on the very thread that it will run on, and start it. Raises what ``make`` does.

        threads: those of one forward pass; None = as many as torch takes. OpenMP keeps a team of them for
        every thread that computes, and with more in all than cores it puts them to sleep between any two
        products, which takes a third longer.
        """
        made: Future[Engine] = Future()

        def live() -> None:
            nonlocal make
            if threads:
                torch.set_num_threads(threads)
            try:
                engine = make()
            except BaseException as error:
                made.set_exception(error)
                return
            del make  # it may hold the engine that this one was opened beside
            engine._thread, engine._running = threading.current_thread(), True
            made.set_result(engine)
            engine._loop()

        threading.Thread(target=live, name=THREAD, daemon=True).start()
        return made.result()

    @classmethod
    def _load(
        cls, path: Path, settings: EngineSettings, name: str | None, generation: int, beside: Engine | None
    ) -> Engine:
        bundle = Bundle.open(path)
        name = name or path.resolve().name
        if beside is None:
            return cls._of(bundle, settings, name, generation)
        wanted = bundle, settings.torch_device(), settings.torch_dtype()
        shared, same = beside.mixture.stands_on(*wanted), beside.mixture.carries(*wanted)
        check_memory(bundle, settings, shared_base=shared, shared_experts=same)
        if shared:
            # Measured beside an engine that serves, they would be wrong.
            settings = settings.model_copy(update={"costs": beside.planner.costs})
        with private_copy(bundle, without_base=shared) as copied:
            return cls._of(copied, settings, name, generation, beside.mixture)

    @classmethod
    def _of(
        cls,
        bundle: Bundle,
        settings: EngineSettings,
        name: str,
        generation: int,
        beside: MixtureModel | None = None,
    ) -> Engine:
        device, dtype = settings.torch_device(), settings.torch_dtype()
        if device == "cpu" and dtype is not torch.float32 and not fast_on_cpu(dtype):
            log.warning("this processor has no %s arithmetic: float32 will be faster", dtype)
        folder = bundle.path / "router"
        router = load_router(folder, bundle.fingerprint, bundle.tasks) if folder.is_dir() else None
        mixture = MixtureModel.load(bundle, device=device, dtype=dtype, beside=beside)
        return cls(
            mixture,
            load_tokenizer(bundle.base),
            settings,
            name=name,
            scalings=bundle.scalings,
            router=router,
            generation=generation,
            tasks=bundle.tasks,
            digest=bundle.digest,
        )

    def stop(self) -> None:
        """End the thread; unfinished requests fail with EngineError."""
        self._ending = True
        self._close()
        self._inbox.put(None)
        if self._thread is not None:
            self._thread.join()

    def finish(self) -> None:
        """End the thread once all requests that have begun have ended."""
        self._inbox.put(self._leave)
        if self._thread is not None:
            self._thread.join()

    def pinned(self, generation: int | None = None) -> AbstractContextManager[Engine]:
        """What answers one request: this very engine."""
        return nullcontext(self)

    @property
    def engines(self) -> Sequence[Engine]:
        """This very one."""
        return [self]

    @property
    def failed(self) -> bool:
        """Whether the thread has died without being asked to end: nothing will be answered any more."""
        return self._thread is not None and not self._thread.is_alive() and not self._ending

    @property
    def ready(self) -> bool:
        return self._running and self._thread is not None and self._thread.is_alive()

    def count_on(self, observer: Observer) -> None:
        """Tell ``observer`` of requests from now on, and nobody of those until now. To be called while there
        are none."""
        observer.knows(self.tasks)
        self.observer = self.steps.observer = observer
        self.steps.generated = 0
        self.planner.passes.clear()
        self.planner.kernels.clear()

    def check(self, request: GenerationRequest) -> None:
        """Raises InputError for a request that cannot be served; nothing is queued."""
        vocabulary = self.mixture.model.get_input_embeddings().num_embeddings
        check_request(request, self.max_model_len, vocabulary, self.tasks, self.chooser.pretrained)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Event]:
        """Events of one answer as they come; closing the iterator cancels the request.

        Raises InputError as ``check`` does and for a schema that cannot be followed, EngineError when the
        engine fails.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | BaseException] = asyncio.Queue()

        def listen(event: Event | BaseException) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        self.check(request)
        constraint = None
        if (schema := request.params.json_schema) is not None:
            constraint = await asyncio.wrap_future(self.grammars.start(schema))
        job = self._submit(request, listen, constraint)
        self.running += not request.background
        try:
            while True:
                event = await events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if event.finish_reason:
                    return
        finally:
            self.running -= not request.background
            self._inbox.put(lambda: self.steps.drop(job))

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Answer]:
        """All answers, in the order of ``requests``, batched continuously. Raises as ``stream``."""
        return list(self.answers(requests))

    def answers(self, requests: Sequence[GenerationRequest]) -> Iterator[Answer]:
        """``generate``, answer by answer; closing the iterator cancels what is not answered yet."""
        sinks: list[queue.SimpleQueue[Event | BaseException]] = [queue.SimpleQueue() for _ in requests]
        jobs: list[Job] = []
        try:
            for request, sink in zip(requests, sinks, strict=True):
                self.check(request)
                schema = request.params.json_schema
                constraint = None if schema is None else self.grammars.start(schema).result()
                jobs.append(self._submit(request, sink.put, constraint))
            yield from map(collect, sinks)
        except BaseException:
            for job in jobs:
                self._inbox.put(lambda job=job: self.steps.drop(job))  # type: ignore[misc]
            raise

    async def route(self, conversations: Sequence[Sequence[str]]) -> list[Route]:
        """Router's scores of conversations, each the user's turns. Raises InputError when the bundle has no
        router."""
        # Tokenising long texts would stop everybody else's events.
        future = await asyncio.to_thread(self._submit_route, conversations)
        return await asyncio.wrap_future(future)

    def route_now(self, conversations: Sequence[Sequence[str]]) -> list[Route]:
        """As ``route``, for callers without an event loop."""
        return self._submit_route(conversations).result()

    def _submit_route(self, conversations: Sequence[Sequence[str]]) -> Future[list[Route]]:
        queries = [self._query(turns) for turns in conversations]
        future: Future[list[Route]] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return  # the client left before its turn
            try:
                future.set_result(self.chooser.routes(queries))
            except Exception as error:
                future.set_exception(error)

        self._put(work)
        return future

    def _submit(self, request: GenerationRequest, sink: Sink, constraint: Constraint | None) -> Job:
        params = request.params
        tokens: list[int] = []
        row = sampler.Row(params, sampler.generator(params), request.prompt, tokens, constraint)
        before = request.prompt if request.joined else ()
        job = Job(request, sink, Detokenizer(self.tokenizer, params.stop, before), row, tokens)
        longest = len(request.prompt) + params.max_tokens
        timeouts = [seconds for seconds in (self.timeout, request.timeout) if seconds is not None]
        deadline = time.monotonic() + min(timeouts) if timeouts else None
        job.entry = Entry(job, len(request.prompt), longest, deadline, job.scored, request.background)
        if request.target.kind == "dynamic":
            job.query = self._query(request.turns)
        job.times = request.times or Times()
        self.steps.told(job).arrived(job)
        try:
            self._put(lambda: self.steps.put(job), urgent=not request.background)
        except EngineError:
            self.steps.told(job).ended(job, "failed")
            raise
        return job

    def _query(self, turns: Sequence[str]) -> Query:
        if self.router is None:
            raise InputError(
                f"bundle {self.name} has no router; train one with twinserve train-router, or ask "
                f"for {self.name}:static or {self.name}:TASK"
            )
        query = self.router.query(self.tokenizer, turns)
        if not query.turns:
            raise InputError("there is no text to route; give some, or name a mixture or an expert")
        return query

    def _put(self, command: Callable[[], None], *, urgent: bool = True) -> None:
        with self._gate:
            if not self.ready:
                raise EngineError("the engine is not running")
            self._inbox.put(command)
        if urgent:
            self.steps.urgent = True

    def _close(self) -> None:
        with self._gate:
            self._running = False

    # From here on: the engine's thread.

    def _loop(self) -> None:
        with torch.inference_mode():
            try:
                while self._running and not (self._ending and self.steps.idle):
                    self._turn()
            finally:
                self._close()
                self._receive(block=False)
                self.steps.fail_all("the engine was stopped")

    def _leave(self) -> None:
        self._ending = True
        self.steps.fail_background("the engine ends")

    def _turn(self) -> None:
        try:
            self.steps.urgent = False
            self._receive(block=self.steps.idle)
            self.steps.step()
        except Exception:
            # Which request is to blame cannot be known here, so all are told to try again.
            log.exception("engine step failed")
            self.steps.fail_all("the engine failed on this batch; send the request again")

    def _receive(self, block: bool) -> None:
        # What arrives meanwhile waits for the next turn, so that no flood keeps others from decoding.
        waiting = max(self._inbox.qsize(), int(block))
        for _ in range(waiting):
            command = self._inbox.get()
            try:
                if command is not None:
                    command()
            except Exception:
                # The others' commands still have to be heard, or their senders would wait for ever.
                log.exception("a command to the engine failed")
