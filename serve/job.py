"""One request on its way through the engine, and the answer it becomes."""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass, field

from router import Query
from serve.detokenizer import Detokenizer
from serve.kernels import Weights
from serve.kvcache import Segment
from serve.request import Event, GenerationRequest, Routing, TokenLogprob
from serve.sampler import Picked, Row
from serve.scheduler import Entry
from serve.times import Times

Sink = Callable[[Event | BaseException], None]


class EngineError(RuntimeError):
    """The engine failed while a request ran; the request can be sent again."""


class NotReadyError(EngineError):
    """No engine answers yet, or none will begin anything any more."""


class DisplacedError(EngineError):
    """A background request was in the way of another."""


class DeadlineError(EngineError):
    """A request was not answered within its time."""


@dataclass(eq=False, repr=False)
class Job:
    """One request on its way: what was asked, and how far the answer is.

    ``query`` is what the router reads; ``weights`` are g of compress.compose;
    ``tokens`` is the answer so far, which ``row`` reads. ``scores`` are the log-probabilities of its prompt
    so far, where they are asked for; ``cached`` counts prompt tokens that the prefix cache had. ``times`` is
    when what happened.
    """

    request: GenerationRequest
    sink: Sink
    detokenizer: Detokenizer
    row: Row
    tokens: list[int]
    entry: Entry[Job] = field(init=False)
    query: Query | None = None
    routing: Routing | None = None
    weights: Weights = ()
    times: Times = field(default_factory=Times)
    scores: list[TokenLogprob] = field(default_factory=list)
    cached: int = 0
    done: bool = False

    @property
    def scored(self) -> bool:
        """Whether log-probabilities of the prompt are asked for."""
        return self.request.params.prompt_logprobs is not None

    @property
    def asks_for_routing(self) -> bool:
        """Whether nobody sees more of it than its routing: a background request leaves no prefix behind."""
        return self.request.background and not self.request.params.max_tokens and not self.scored

    def next_token(self) -> Segment:
        """The answer's last token, whose keys and values are not in the cache yet."""
        position = len(self.request.prompt) + len(self.tokens) - 1
        return Segment(self.entry.row, position, self.tokens[-1:])

    def take(self, picked: Picked, ends: bool) -> Event:
        """The event of one more token; ``ends``: it is one that ends the answer."""
        self.tokens.append(picked.token)
        text = "" if ends else self.detokenizer.push(picked.token)
        finish = None
        if ends or self.detokenizer.stopped:
            finish = "stop"
        elif len(self.tokens) >= self.request.params.max_tokens:
            finish = "length"
        if finish:
            text += self.detokenizer.finish()
            if self.detokenizer.stopped:
                finish = "stop"
        logprobs = () if picked.logprob is None else (picked.logprob,)
        return self._event(text, (picked.token,), finish, logprobs)

    def end_of_prompt(self) -> Event:
        """The only event of a request that asks for no tokens."""
        return self._event("", (), "length", ())

    def _event(
        self, text: str, tokens: tuple[int, ...], finish: str | None, logprobs: tuple[TokenLogprob, ...]
    ) -> Event:
        assert self.routing is not None
        event = Event(
            text,
            tokens,
            self.routing,
            finish,  # type: ignore[arg-type]
            logprobs,
            tuple(self.scores),
            self.cached,
        )
        # They belong to the first event alone.
        self.scores, self.cached = [], 0
        return event


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    text: str
    token_ids: tuple[int, ...]
    routing: Routing
    finish_reason: str
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    cached_tokens: int = 0


def collect(events: queue.SimpleQueue[Event | BaseException]) -> Answer:
    """Gather the events of one request. Raises what the engine reports."""
    text = ""
    tokens: list[int] = []
    logprobs: list[TokenLogprob] = []
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    cached = 0
    while True:
        event = events.get()
        if isinstance(event, BaseException):
            raise event
        text += event.text
        tokens += event.token_ids
        logprobs += event.logprobs
        prompt_logprobs += event.prompt_logprobs
        cached += event.cached_tokens
        if event.finish_reason:
            return Answer(
                text,
                tuple(tokens),
                event.routing,
                event.finish_reason,
                tuple(logprobs),
                prompt_logprobs,
                cached,
            )
