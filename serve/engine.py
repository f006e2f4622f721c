"""The engine: one thread that routes, prefills and decodes; requests of any mixture share a batch."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from compress.bundle import Bundle
from compress.compose import check_mixture, factor_weights
from compress.errors import InputError
from compress.loading import load_tokenizer
from router import Route, Router
from serve import sampler
from serve.detokenizer import Detokenizer
from serve.job import Answer, EngineError, Job, Sink, collect
from serve.kvcache import SlotCache, context_length
from serve.mixture import MixtureModel
from serve.planner import Planner, Weights
from serve.request import Event, GenerationRequest, Routing
from serve.scheduler import Entry, Scheduler
from serve.settings import EngineSettings

log = logging.getLogger(__name__)

# Mixtures are rounded to this grid before anything is computed, so that equal ones are found equal.
GRID = 64
# More wait for the next step, behind a decode of those that run.
ROUTED_PER_STEP = 16


class Engine:
    """Serves one bundle. Once started, only the engine's own thread runs the model."""

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
    ) -> None:
        config = mixture.model.config
        self.name, self.tokenizer, self.router, self.generation = name, tokenizer, router, generation
        self.mixture, self.tasks, self.scalings = mixture, mixture.tasks, scalings
        self.max_model_len = context_length(config, settings.max_model_len)
        self.cache = SlotCache(config, settings.slots, self.max_model_len)
        self.scheduler: Scheduler[Job] = Scheduler(settings.slots)
        self.planner = Planner(mixture, copies=settings.composed_copies, mode=settings.composition)
        self.shared: Weights = tuple(factor_weights({}, self.tasks, scalings))
        self.planner.pin(self.shared)
        self._additive = getattr(config, "_attn_implementation", "sdpa") == "eager"
        self._eos = _eos_ids(mixture.model, tokenizer)
        self._device = next(mixture.model.parameters()).device
        self._dtype = next(mixture.model.parameters()).dtype
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._unrouted: list[Job] = []
        self._running = False
        # Nothing may enter the inbox once its last emptying has begun, or its sender would wait for ever.
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="twinserve-engine", daemon=True)

    @classmethod
    def open(cls, path: Path, settings: EngineSettings, name: str | None = None) -> Engine:
        """Open a bundle, verified, and start serving it.

        Raises InputError when the bundle or the model cannot be served.
        """
        if settings.threads:
            torch.set_num_threads(settings.threads)
        bundle = Bundle.open(path)
        mixture = MixtureModel.load(bundle, device=settings.torch_device(), dtype=settings.torch_dtype())
        folder = path / "router"
        engine = cls(
            mixture,
            load_tokenizer(bundle.base),
            settings,
            name=name or path.resolve().name,
            scalings=bundle.scalings,
            router=Router.load(folder) if folder.is_dir() else None,
        )
        engine.start()
        return engine

    def start(self) -> Engine:
        """Start the engine's thread."""
        self._running = True
        self._thread.start()
        return self

    def stop(self) -> None:
        """End the thread; unfinished requests fail with EngineError."""
        self._close()
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()

    @property
    def ready(self) -> bool:
        return self._running and self._thread.is_alive()

    def check(self, request: GenerationRequest) -> None:
        """Raises InputError for a request that cannot be served; nothing is queued."""
        length, limit = len(request.prompt), self.max_model_len
        if length == 0:
            raise InputError("the prompt is empty; give at least one token")
        if request.params.max_tokens < 1:
            raise InputError(f"max_tokens must be at least 1, not {request.params.max_tokens}")
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
            self._inbox.put(lambda: self._drop(job))

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
                self._inbox.put(lambda job=job: self._drop(job))  # type: ignore[misc]
            raise

    async def route(self, texts: list[str]) -> list[Route]:
        """Router's scores of plain texts. Raises InputError when the bundle has no router."""
        return await asyncio.wrap_future(self._submit_route(texts))

    def route_now(self, texts: list[str]) -> list[Route]:
        """As ``route``, for callers without an event loop."""
        return self._submit_route(texts).result()

    def _submit_route(self, texts: list[str]) -> Future[list[Route]]:
        ids = [self._routing_ids(text) for text in texts]
        future: Future[list[Route]] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return  # the client left before its turn
            try:
                future.set_result(self._routes(ids))
            except Exception as error:
                future.set_exception(error)

        self._put(work)
        return future

    def _submit(self, request: GenerationRequest, sink: Sink) -> Job:
        self.check(request)
        params = request.params
        detokenizer = Detokenizer(self.tokenizer, params.stop)
        tokens: list[int] = []
        row = sampler.Row(params, sampler.generator(params), request.prompt, tokens)
        job = Job(request, sink, detokenizer, row, tokens)
        if request.target.kind == "dynamic":
            job.routed = self._routing_ids(request.routing_text)
        self._put(lambda: self._unrouted.append(job))
        return job

    def _routing_ids(self, text: str) -> list[int]:
        if self.router is None:
            raise InputError(
                f"bundle {self.name} has no router; train one with twinserve train-router, or ask "
                f"for {self.name}:static or {self.name}:TASK"
            )
        ids = self.router.encode(self.tokenizer, text.strip())
        if not ids:
            raise InputError("there is no text to route; give some, or name a mixture or an expert")
        return ids

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
                self._fail_all("the engine was stopped")

    def _turn(self) -> None:
        try:
            self._receive(block=self.scheduler.idle and not self._unrouted)
            self._step()
        except Exception:
            # Which row is to blame cannot be known, so all that ran together are told to try again.
            log.exception("engine step failed")
            self._fail_all("the engine failed on this batch; send the request again")

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

    def _step(self) -> None:
        if self._unrouted:
            self._assign()
        if (entry := self.scheduler.admit()) is not None:
            try:
                self._prefill(entry.payload)
            except Exception:
                log.exception("prefill failed")
                self._drop(entry.payload)
                self._emit(entry.payload, EngineError("the engine failed on this prompt; send it again"))
        if self.scheduler.running:
            self._decode()

    def _assign(self) -> None:
        jobs = self._unrouted[:ROUTED_PER_STEP]
        dynamic = [job for job in jobs if job.request.target.kind == "dynamic"]
        routes = iter(self._routes([job.routed for job in dynamic]))
        for job in jobs:
            route = next(routes) if job.request.target.kind == "dynamic" else None
            job.routing = self._routing(job.request, route)
            job.weights = tuple(factor_weights(job.routing.mixture, self.tasks, self.scalings))
            job.entry = Entry(job)
            self.scheduler.add(job.entry)
            self._unrouted.remove(job)

    def _routes(self, ids: list[list[int]]) -> list[Route]:
        if not ids:
            return []
        assert self.router is not None
        with self.planner.apply([self.shared], sum(map(len, ids))):
            return self.router.route(self.mixture.model, ids)

    def _routing(self, request: GenerationRequest, route: Route | None) -> Routing:
        target, generation = request.target, self.generation
        if target.kind == "static":
            return Routing({}, "static", None, "static", generation)
        if target.kind == "task":
            return Routing({str(target.task): 1.0}, "model", None, str(target.task), generation)
        wanted = route.mixture if route is not None else target.mixture or {}
        snapped = {task: round(weight * GRID) / GRID for task, weight in wanted.items()}
        mixture = {task: weight for task, weight in snapped.items() if weight != 0.0}
        if route is None:
            return Routing(mixture, "request", None, "mixture", generation)
        return Routing(mixture, "router", route.confidence, "dynamic", generation)

    def _prefill(self, job: Job) -> None:
        assert job.entry is not None
        prompt = job.request.prompt
        self.cache.clear(job.entry.row)
        rows = slice(job.entry.row, job.entry.row + 1)
        logits = self._forward([prompt], [range(len(prompt))], rows, [job.weights])
        self._advance([job], logits)

    def _decode(self) -> None:
        jobs = [entry.payload for entry in self.scheduler.running]
        logits = self._forward(
            [job.tokens[-1:] for job in jobs],
            [[job.position] for job in jobs],
            slice(0, len(jobs)),
            [job.weights for job in jobs],
        )
        self._advance(jobs, logits)

    def _forward(
        self,
        tokens: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]],
        rows: slice,
        weights: Sequence[Weights],
    ) -> torch.Tensor:
        """Logits [rows, vocabulary] after the last of ``tokens`` [rows, tokens]."""
        ids = torch.tensor(tokens, device=self._device)
        places = torch.tensor([list(p) for p in positions], device=self._device)
        self.cache.aim(rows, places)
        with self.planner.apply(weights, ids.numel()):
            output = self.mixture.model(
                input_ids=ids,
                position_ids=places,
                attention_mask=self.cache.mask(self._dtype, self._additive),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _advance(self, jobs: Sequence[Job], logits: torch.Tensor) -> None:
        broken = sampler.broken(logits)
        for job, failed, picked in zip(
            jobs, broken, sampler.sample(logits, [job.row for job in jobs]), strict=True
        ):
            if failed:
                self._drop(job)
                self._emit(job, EngineError("the model's numbers overflowed on this prompt"))
            else:
                self._take(job, picked)

    def _take(self, job: Job, picked: sampler.Picked) -> None:
        params, token = job.request.params, picked.token
        job.tokens.append(token)
        ended = token in params.stop_token_ids or (token in self._eos and not params.ignore_eos)
        text = "" if ended else job.detokenizer.push(token)
        finish = None
        if ended or job.detokenizer.stopped:
            finish = "stop"
        elif len(job.tokens) >= params.max_tokens:
            finish = "length"
        if finish:
            text += job.detokenizer.finish()
            if job.detokenizer.stopped:
                finish = "stop"
        assert job.routing is not None
        logprobs = () if picked.logprob is None else (picked.logprob,)
        self._emit(job, Event(text, (token,), job.routing, finish, logprobs))  # type: ignore[arg-type]
        if finish:
            self._drop(job)

    def _emit(self, job: Job, event: Event | BaseException) -> None:
        try:
            job.sink(event)
        except RuntimeError:  # the listener's event loop is gone
            self._drop(job)

    def _drop(self, job: Job) -> None:
        """Finished or cancelled: free the slot. Harmless when already done."""
        if job.done:
            return
        job.done = True
        if job in self._unrouted:
            self._unrouted.remove(job)
        if job.entry is not None and (move := self.scheduler.finish(job.entry)):
            self.cache.move(move.source, move.target)

    def _fail_all(self, reason: str) -> None:
        # Everybody leaves, so no row has to move: this must work after the model has failed.
        running = [entry.payload for entry in (*self.scheduler.running, *self.scheduler.waiting)]
        jobs = [*self._unrouted, *running]
        self._unrouted.clear()
        self.scheduler.clear()
        for job in jobs:
            job.done = True
            self._emit(job, EngineError(reason))


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)
