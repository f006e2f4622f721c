"""The engine's answers to one HTTP request, which may hold several prompts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from serve.api.backlog import Backlog, Tagged
from serve.api.surface import EngineSurface
from serve.request import Event, GenerationRequest, TokenLogprob


@dataclass
class Answer:
    """A whole answer: its pieces of text, its length in tokens, its tokens' and its prompt's
    log-probabilities where they were asked for, how many prompt tokens were cached, and its last event."""

    pieces: list[str] = field(default_factory=list)
    tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    cached: int = 0
    last: Event | None = None

    def add(self, event: Event) -> None:
        self.pieces.append(event.text)
        self.tokens += len(event.token_ids)
        self.logprobs += event.logprobs
        self.prompt_logprobs += event.prompt_logprobs
        self.cached += event.cached_tokens
        self.last = event

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def end(self) -> Event:
        """The event that ended the answer; an answer that was collected has one."""
        if self.last is None:
            raise RuntimeError("the answer has no events")
        return self.last


async def merged(
    engine: EngineSurface, requests: Sequence[GenerationRequest], hears: Callable[[Event], None]
) -> AsyncGenerator[Tagged, None]:
    """Events of all requests, answered at once, in the order in which they happen; ``hears`` is told of
    each.

    The first failure ends them all and is raised here. Closing this generator cancels what is
    still running: the engine is told, and lets go of it before its next step. Each engine iterator
    is driven and closed by a task of its own, because a response is begun and finished in
    different tasks.
    """
    backlog = Backlog()

    async def pump(index: int, request: GenerationRequest) -> None:
        try:
            await _drain(engine.stream(request), index, backlog)
        except asyncio.CancelledError:
            # Also when it is the engine that cancels: silence would leave the client waiting.
            backlog.end(RuntimeError("the engine dropped the request"))
            raise
        except Exception as error:
            backlog.end(error)
        else:
            backlog.end()

    tasks = [asyncio.create_task(pump(i, request)) for i, request in enumerate(requests)]
    running = len(tasks)
    try:
        while running:
            tagged = await backlog.get()
            if tagged is None:
                running -= 1
            else:
                hears(tagged[1])
                yield tagged
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def first(events: AsyncGenerator[Tagged, None]) -> Tagged:
    """The next event; a coroutine, where ``anext`` gives a bare awaitable."""
    return await anext(events)


async def collect(
    engine: EngineSurface, requests: Sequence[GenerationRequest], hears: Callable[[Event], None]
) -> list[Answer]:
    """Whole answers, one for each request; ``hears`` is told of each event."""
    answers = [Answer() for _ in requests]
    async for index, event in merged(engine, requests, hears):
        answers[index].add(event)
    return answers


async def _drain(stream: AsyncIterator[Event], index: int, backlog: Backlog) -> None:
    finished = False
    try:
        async for event in stream:
            finished = event.finish_reason is not None
            backlog.put(index, event)
    finally:
        aclose = getattr(stream, "aclose", None)
        if aclose is not None:
            await aclose()
    if not finished:
        raise RuntimeError("the engine ended an answer without a finish reason")
