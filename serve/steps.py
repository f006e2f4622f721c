"""What the engine's thread does between two looks into its inbox: route, admit, compute, sample."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch

from serve import sampler
from serve.attention import InterruptedPassError
from serve.choice import Chooser
from serve.grammar import GrammarError
from serve.job import DeadlineError, DisplacedError, EngineError, Job
from serve.kvcache import Segment, SlotCache
from serve.logprobs import logprobs
from serve.observer import Observer, Timekeeper
from serve.prefix import PrefixCache
from serve.request import Event
from serve.runner import Runner, Work
from serve.scheduler import Chunk, Entry, Move, Scheduler, State, Step
from serve.times import Outcome

log = logging.getLogger(__name__)

# Of a busy engine's time, what its background may take. Latency grows by more than that: where requests share
# batches, each that takes longer is in the others' way for longer.
SHARE = 0.005
OVERFLOW = "the model's numbers overflowed on this request"


class Steps:
    """All requests of one engine, from arrival to end. Only the engine's thread calls this."""

    def __init__(
        self,
        scheduler: Scheduler[Job],
        runner: Runner,
        chooser: Chooser,
        prefixes: PrefixCache,
        eos: frozenset[int],
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler, self.runner, self.chooser, self.prefixes = scheduler, runner, chooser, prefixes
        self.cache: SlotCache = runner.cache
        self.eos, self.observer, self.clock = eos, observer, clock
        # Of background requests no figure tells.
        self.unseen = Timekeeper(observer.clock)
        # Seconds of others' passes until the background may compute again beside them.
        self.owed = 0.0
        self.unrouted: list[Job] = []
        self.shelved: list[Job] = []
        # Written by whoever brings work, from any thread: a pass of the background alone is given up for it.
        self.urgent = False
        self.generated = 0

    @property
    def idle(self) -> bool:
        return self.scheduler.idle and not self.unrouted and not self.shelved

    def told(self, job: Job) -> Timekeeper:
        """Whoever is told what happens to a request."""
        return self.unseen if job.request.background else self.observer

    def put(self, job: Job) -> None:
        """A new request, to be routed next; one of the background once that has a turn."""
        (self.shelved if job.request.background else self.unrouted).append(job)

    def step(self) -> None:
        """One turn: at most one forward pass of the router, one step of the model."""
        self._expire()
        began = self.clock()
        alone = not self.scheduler.busy and all(job.request.background for job in self.unrouted)
        background = self._may_take_a_turn(alone)
        if background:
            self._take_from_shelf()
        if self.unrouted:
            self._route()
        self._admit(background)
        step = self.scheduler.plan(background)
        if step:
            self._compute(step, alone)
        took = self.clock() - began
        if not background:
            self.owed = max(0.0, self.owed - took)
        elif not alone:
            self.owed = took / SHARE

    def _may_take_a_turn(self, alone: bool) -> bool:
        """Whether this turn is the background's. alone: nobody else is here. Otherwise it is, if nobody waits
        and its last turn has been made up for."""
        if not self.shelved and not self.scheduler.behind:
            return False
        # Who is not routed waits, too.
        return alone or (not self.unrouted and not self.scheduler.waiting and self.owed <= 0)

    def _take_from_shelf(self) -> None:
        """Background requests that the router reads in one small pass; at least one, if there is any."""
        room = self.scheduler.step_tokens // 4
        while self.shelved:
            query = self.shelved[0].query
            room -= 0 if query is None else self.chooser.tokens(query)
            if room < 0 and self.unrouted:
                return
            self.unrouted.append(self.shelved.pop(0))

    def _compute(self, step: Step[Job], alone: bool) -> None:
        work = [(e.payload, Work(e.payload.next_token(), e.payload.weights, True)) for e in step.decode]
        work += [(chunk.entry.payload, self._chunk(chunk)) for chunk in step.prefill]
        background = work[0][0].request.background
        began = self.clock()
        # Beside others, who would have no end of reasons, a pass is not given up but paid for.
        give_way = (lambda: alone and self.urgent) if background else None
        try:
            results = self.runner.run([one for _, one in work], give_way)
        except InterruptedPassError:
            return  # to be computed again: none of it has been recorded
        self.told(work[0][0]).stepped(sum(len(one.segment.tokens) for _, one in work))
        self.scheduler.advance(step)
        jobs, logits = [], []
        for (job, piece), found in zip(work, results, strict=True):
            if isinstance(found, Exception):
                self.fail(job, EngineError("the engine failed on this request; send it again"))
                continue
            if found is not None and piece.every:
                found = self._score(job, piece, found)
            if found is not None:
                jobs.append(job)
                logits.append(found)
        if background:
            # Before the last token is told: who hears of it reads the time at once.
            for job, _ in work:
                job.times.working += self.clock() - began
        if jobs:
            self._sample(jobs, torch.stack(logits))

    def drop(self, job: Job, state: State = State.CANCELLED, outcome: Outcome = "cancelled") -> None:
        """Finished or cancelled: free the slot, now. Harmless when already done."""
        if job.done:
            return
        job.done = True
        self.told(job).ended(job, outcome)
        entry = job.entry
        for place in (self.unrouted, self.shelved):
            if job in place:
                # The scheduler has not heard of it yet.
                place.remove(job)
                entry.state = state
                return
        row, used = entry.row, _used(entry)
        moves = self.scheduler.finish(entry, state)
        for move in moves:
            moved = _used(self.scheduler.running[move.target])
            self.cache.move(move.source, move.target, max(used, moved))
        if row >= 0 and not moves:
            self.cache.clear(row, used)

    def fail(self, job: Job, error: EngineError | GrammarError) -> None:
        """End one request with an error."""
        self.drop(job, outcome="deadline" if isinstance(error, DeadlineError) else "failed")
        self.emit(job, error)

    def fail_all(self, reason: str) -> None:
        """End everybody. No row moves and none is read: this must work after the model has failed."""
        jobs = [*self.unrouted, *self.shelved, *(entry.payload for entry in self.scheduler.everybody)]
        self.unrouted.clear()
        self.shelved.clear()
        self.scheduler.clear()
        self.cache.reset()
        for job in jobs:
            job.done = True
            self.told(job).ended(job, "failed")
            self.emit(job, EngineError(reason))

    def fail_background(self, reason: str) -> None:
        """End all requests of the background."""
        jobs = [*self.shelved, *self.unrouted, *(entry.payload for entry in self.scheduler.everybody)]
        for job in jobs:
            if job.request.background:
                self.fail(job, DisplacedError(reason))

    def emit(self, job: Job, event: Event | BaseException) -> None:
        try:
            job.sink(event)
        except RuntimeError:  # the listener's event loop is gone
            self.drop(job)

    def _expire(self) -> None:
        now = self.clock()
        unknown = (*self.unrouted, *self.shelved)
        late = [job for job in unknown if job.entry.deadline is not None and job.entry.deadline <= now]
        for job in [*late, *(entry.payload for entry in self.scheduler.expired(now))]:
            self.fail(job, DeadlineError("the request was not answered in time"))

    def _route(self) -> None:
        # Those whose score is known cost nothing; of the others, only as many as one step may hold.
        room, jobs = self.scheduler.step_tokens, []
        for job in self.unrouted:
            if job.query is not None and (tokens := self.chooser.tokens(job.query)):
                if room < tokens and room < self.scheduler.step_tokens:
                    break
                room -= tokens
            jobs.append(job)
        dynamic = [job for job in jobs if job.query is not None]
        began = self.observer.clock()
        try:
            routes = iter(self.chooser.routes([job.query for job in dynamic if job.query is not None]))
        except Exception:
            log.exception("routing failed")
            for job in dynamic:
                self.fail(job, EngineError("the router failed on this request; send it again"))
            return
        for job in jobs:
            job.routing = self.chooser.routing(job.request, next(routes) if job.query is not None else None)
            job.weights = self.chooser.weights(job.routing.mixture)
            if job.query is not None:
                self.told(job).routed(job, began)
            if job.asks_for_routing:
                self._end_with_prompt(job)
            else:
                self.unrouted.remove(job)
                self.scheduler.add(job.entry)

    def _admit(self, background: bool) -> None:
        while not self._about_to_be_known():
            if (admitted := self.scheduler.admit(background)) is not None:
                self._begin(*admitted)
            elif (displaced := self.scheduler.in_the_way()) is not None:
                self.fail(displaced.payload, DisplacedError("others needed the room; send it again"))
            else:
                return

    def _about_to_be_known(self) -> bool:
        """Whether the next prompt is being prefilled right now, as when a request asks for several
        choices: waiting until it is remembered costs less than prefilling it again."""
        if not self.prefixes.budget or not self.scheduler.waiting:
            return False
        job = self.scheduler.waiting[0].payload
        if job.scored or len(job.request.prompt) <= self.prefixes.block:
            return False
        return any(
            entry.state is State.PREFILL
            and not entry.background  # that one may wait for this one
            and entry.payload.request.prompt == job.request.prompt
            and self._root(entry.payload) == self._root(job)
            for entry in self.scheduler.running
        )

    def _begin(self, entry: Entry[Job], move: Move | None) -> None:
        job = entry.payload
        self.told(job).admitted(job)
        scheduler = self.scheduler
        most = scheduler.kv_bytes // scheduler.position_bytes
        self.cache.reserve(len(scheduler.running), scheduler.longest, most)
        if move is not None:
            self.cache.move(move.source, move.target, _used(scheduler.running[move.target]))
        if job.scored or job.request.background:
            return  # the cache has no logits, without which there is no score; and its figures are of others
        blocks = self.prefixes.match(self._root(job), job.request.prompt)
        for index, block in enumerate(blocks):
            self.cache.write(entry.row, index * self.prefixes.block, block.layers)
        entry.done = job.cached = len(blocks) * self.prefixes.block

    def _chunk(self, chunk: Chunk[Job]) -> Work:
        job = chunk.entry.payload
        tokens = job.request.prompt[chunk.start : chunk.stop]
        return Work(Segment(chunk.entry.row, chunk.start, tokens), job.weights, chunk.last, job.scored)

    def _score(self, job: Job, piece: Work, logits: torch.Tensor) -> torch.Tensor | None:
        """Keep the log-probabilities that a chunk's logits give to the prompt tokens after each; returns
        the logits to sample from, where the prompt ends with it."""
        start = piece.segment.start + 1
        following = job.request.prompt[start : start + len(logits)]
        logits, last = logits[: len(following)], logits[-1]
        if any(sampler.broken(logits)):
            self.fail(job, EngineError(OVERFLOW))
            return None
        job.scores += logprobs(logits, following, [job.request.params.prompt_logprobs or 0] * len(following))
        return last if piece.wanted else None

    def _remember(self, job: Job, tokens: list[int]) -> None:
        if job.request.background:
            return  # what others come back for must not go for it
        row = job.entry.row
        self.prefixes.insert(self._root(job), tokens, lambda start, stop: self.cache.read(row, start, stop))

    def _end_with_prompt(self, job: Job) -> None:
        self.drop(job, State.FINISHED, "length")
        self.emit(job, job.end_of_prompt())

    def _root(self, job: Job) -> tuple[Any, ...]:
        assert job.routing is not None
        return (job.routing.generation, tuple(sorted(job.routing.mixture.items())))

    def _sample(self, jobs: list[Job], logits: torch.Tensor) -> None:
        broken = sampler.broken(logits)
        picked = sampler.sample(logits, [job.row for job in jobs])
        for job, failed, choice in zip(jobs, broken, picked, strict=True):
            if failed:
                self.fail(job, EngineError(OVERFLOW))
            elif not job.done:
                self._take(job, choice)

    def _take(self, job: Job, picked: sampler.Picked) -> None:
        params, token, constraint = job.request.params, picked.token, job.row.constraint
        if constraint is not None:
            try:
                constraint.accept(token)
            except GrammarError as error:
                self.fail(job, error)
                return
        if not job.tokens:
            # Not before the first token: what overflowed must not be remembered.
            self._remember(job, job.request.prompt)
            self.told(job).prefilled(job)
        if not params.max_tokens:
            self._end_with_prompt(job)
            return
        ends = token in params.stop_token_ids or (
            token in self.eos and (constraint is not None or not params.ignore_eos)
        )
        event = job.take(picked, ends)
        self.generated += not job.request.background
        self.told(job).token(job)
        if event.finish_reason:
            # A conversation's next turn begins with this one and its answer.
            self._remember(job, [*job.request.prompt, *job.tokens[:-1]])
            self.drop(job, State.FINISHED, event.finish_reason)
        self.emit(job, event)


def _used(entry: Entry[Job]) -> int:
    """Positions of its row that an entry may have written."""
    return min(entry.longest, entry.prompt + len(entry.payload.tokens))
