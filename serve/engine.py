"""The engine: one thread that routes, prefills and decodes; requests of any mixture share a batch."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from compress.bundle import Bundle
from compress.compose import check_mixture
from compress.errors import InputError
from compress.loading import load_tokenizer
from router import Query, Route, Router, load_router
from serve import sampler
from serve.choice import Chooser
from serve.costs import calibrate
from serve.detokenizer import Detokenizer
from serve.job import Answer, EngineError, Job, Sink, collect
from serve.kvcache import SlotCache, context_length, position_bytes
from serve.metrics import registry
from serve.mixture import MixtureModel
from serve.planner import Planner
from serve.prefix import PrefixCache
from serve.request import Event, GenerationRequest
from serve.runner import Runner
from serve.scheduler import LENGTH_STEP, Entry, Scheduler
from serve.selfcheck import check_decoder
from serve.settings import EngineSettings, fast_on_cpu
from serve.steps import Steps

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
    ) -> None:
        config = mixture.model.config.get_text_config(decoder=True)
        self.name, self.tokenizer, self.router, self.generation = name, tokenizer, router, generation
        # Some experts may only be there for the shared base.
        self.mixture, self.tasks = mixture, mixture.tasks if tasks is None else list(tasks)
        weight = next(mixture.model.parameters())
        cost = position_bytes(config, weight.dtype)
        self.max_model_len = _fitting(config, settings, cost)
        self.timeout = settings.request_timeout
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
        self.steps = Steps(
            self.scheduler, runner, self.chooser, self.prefixes, _eos_ids(mixture.model, tokenizer)
        )
        self.metrics = registry(self)
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._running = False
        # Nothing may enter the inbox once its last emptying has begun, or its sender would wait for ever.
        self._gate = threading.Lock()
        self._thread: threading.Thread | None = None

    @classmethod
    def open(cls, path: Path, settings: EngineSettings, name: str | None = None) -> Engine:
        """Open a bundle, verified, and start serving it.

        Raises InputError when the bundle or the model cannot be served.
        """
        return cls.launch(lambda: cls._load(path, settings, name), settings.threads)

    @classmethod
    def launch(cls, make: Callable[[], Engine], threads: int | None = None) -> Engine:
        """Make an engine on the very thread that it will run on, and start it. Raises what ``make`` does.

        threads: those of one forward pass; None = as many as torch takes. OpenMP keeps a team of them for
        every thread that computes, and with more in all than cores it puts them to sleep between any two
        products, which takes a third longer.
        """
        made: Future[Engine] = Future()

        def live() -> None:
            if threads:
                torch.set_num_threads(threads)
            try:
                engine = make()
            except BaseException as error:
                made.set_exception(error)
                return
            engine._thread, engine._running = threading.current_thread(), True
            made.set_result(engine)
            engine._loop()

        threading.Thread(target=live, name=THREAD, daemon=True).start()
        return made.result()

    @classmethod
    def _load(cls, path: Path, settings: EngineSettings, name: str | None) -> Engine:
        bundle = Bundle.open(path)
        device, dtype = settings.torch_device(), settings.torch_dtype()
        if device == "cpu" and dtype is not torch.float32 and not fast_on_cpu(dtype):
            log.warning("this processor has no %s arithmetic: float32 will be faster", dtype)
        folder = path / "router"
        router = load_router(folder, bundle.fingerprint, bundle.tasks) if folder.is_dir() else None
        mixture = MixtureModel.load(bundle, device=device, dtype=dtype)
        return cls(
            mixture,
            load_tokenizer(bundle.base),
            settings,
            name=name or path.resolve().name,
            scalings=bundle.scalings,
            router=router,
            tasks=bundle.tasks,
        )

    def stop(self) -> None:
        """End the thread; unfinished requests fail with EngineError."""
        self._close()
        self._inbox.put(None)
        if self._thread is not None:
            self._thread.join()

    @property
    def ready(self) -> bool:
        return self._running and self._thread is not None and self._thread.is_alive()

    def check(self, request: GenerationRequest) -> None:
        """Raises InputError for a request that cannot be served; nothing is queued."""
        length, limit = len(request.prompt), self.max_model_len
        if length == 0:
            raise InputError("the prompt is empty; give at least one token")
        if request.params.max_tokens < 0:
            raise InputError(f"max_tokens must be at least 0, not {request.params.max_tokens}")
        if length + request.params.max_tokens > limit:
            raise InputError(
                f"{length} prompt tokens and max_tokens {request.params.max_tokens} exceed the context "
                f"of {limit} tokens; at most {max(0, limit - length)} can be asked for"
            )
        vocabulary = self.mixture.model.get_input_embeddings().num_embeddings
        if not all(0 <= token < vocabulary for token in request.prompt):
            raise InputError(f"prompt: token ids must lie between 0 and {vocabulary - 1}")
        target = request.target
        if target.kind == "task":
            check_mixture({str(target.task): 1.0}, self.tasks)
        elif target.kind == "mixture":
            check_mixture(target.mixture or {}, self.tasks)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Event]:
        """Events of one answer as they come; closing the iterator cancels the request.

        Raises InputError as ``check`` does, EngineError when the engine fails.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | BaseException] = asyncio.Queue()

        def listen(event: Event | BaseException) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        job = self._submit(request, listen)
        try:
            while True:
                event = await events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if event.finish_reason:
                    return
        finally:
            self._inbox.put(lambda: self.steps.drop(job))

    def generate(
        self, requests: Sequence[GenerationRequest], progress: Callable[[], None] | None = None
    ) -> list[Answer]:
        """All answers, in the order of ``requests``, batched continuously. Raises as ``stream``."""
        sinks: list[queue.SimpleQueue[Event | BaseException]] = [queue.SimpleQueue() for _ in requests]
        jobs: list[Job] = []
        try:
            for request, sink in zip(requests, sinks, strict=True):
                jobs.append(self._submit(request, sink.put))
            return [collect(sink, progress) for sink in sinks]
        except BaseException:
            for job in jobs:
                self._inbox.put(lambda job=job: self.steps.drop(job))  # type: ignore[misc]
            raise

    async def route(self, conversations: Sequence[Sequence[str]]) -> list[Route]:
        """Router's scores of conversations, each the user's turns. Raises InputError when the bundle has no
        router."""
        return await asyncio.wrap_future(self._submit_route(conversations))

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

    def _submit(self, request: GenerationRequest, sink: Sink) -> Job:
        self.check(request)
        params = request.params
        tokens: list[int] = []
        row = sampler.Row(params, sampler.generator(params), request.prompt, tokens)
        before = request.prompt if request.joined else ()
        job = Job(request, sink, Detokenizer(self.tokenizer, params.stop, before), row, tokens)
        longest = len(request.prompt) + params.max_tokens
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        job.entry = Entry(job, len(request.prompt), longest, deadline, job.scored)
        if request.target.kind == "dynamic":
            job.query = self._query(request.turns)
        self._put(lambda: self.steps.unrouted.append(job))
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

    def _put(self, command: Callable[[], None]) -> None:
        with self._gate:
            if not self.ready:
                raise EngineError("the engine is not running")
            self._inbox.put(command)

    def _close(self) -> None:
        with self._gate:
            self._running = False

    # From here on: the engine's thread.

    def _loop(self) -> None:
        with torch.inference_mode():
            try:
                while self._running:
                    self._turn()
            finally:
                self._close()
                self._receive(block=False)
                self.steps.fail_all("the engine was stopped")

    def _turn(self) -> None:
        try:
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


def _fitting(config: Any, settings: EngineSettings, cost: int) -> int:
    """Positions of a request: the model's, or what the memory for keys and values holds."""
    most = int(settings.kv_memory) // (cost * LENGTH_STEP) * LENGTH_STEP
    length = context_length(config, settings.max_model_len)
    if most < LENGTH_STEP or (settings.max_model_len is not None and most < length):
        raise InputError(
            f"kv_memory {int(settings.kv_memory)} holds {most} positions of this model, at {cost} bytes "
            f"each, and {max(settings.max_model_len or 0, LENGTH_STEP)} are needed: give it more"
        )
    return min(length, most)


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)
