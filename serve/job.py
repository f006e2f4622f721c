"""One request on its way through the engine, and the answer it becomes."""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass, field

from serve.detokenizer import Detokenizer
from serve.planner import Weights
from serve.request import Event, GenerationRequest, Routing
from serve.sampler import Row
from serve.scheduler import Entry

Sink = Callable[[Event | BaseException], None]


class EngineError(RuntimeError):
    """The engine failed while a request ran; the request can be sent again."""


@dataclass(eq=False)
class Job:
    """One request on its way: what was asked, and how far the answer is.

    ``routed`` are the token ids that the router reads; ``weights`` are g of compress.compose;
    ``tokens`` is the answer so far, which ``row`` reads.
    """

    request: GenerationRequest
    sink: Sink
    detokenizer: Detokenizer
    row: Row
    tokens: list[int]
    routed: list[int] = field(default_factory=list)
    routing: Routing | None = None
    weights: Weights = ()
    entry: Entry[Job] | None = None
    done: bool = False

    @property
    def position(self) -> int:
        """Where the last generated token stands."""
        return len(self.request.prompt) + len(self.tokens) - 1


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    text: str
    token_ids: tuple[int, ...]
    routing: Routing
    finish_reason: str


def collect(events: queue.SimpleQueue[Event | BaseException], progress: Callable[[], None] | None) -> Answer:
    """Gather the events of one request. Raises what the engine reports."""
    text = ""
    tokens: list[int] = []
    while True:
        event = events.get()
        if isinstance(event, BaseException):
            raise event
        text += event.text
        tokens += event.token_ids
        if event.finish_reason:
            if progress is not None:
                progress()
            return Answer(text, tuple(tokens), event.routing, event.finish_reason)
