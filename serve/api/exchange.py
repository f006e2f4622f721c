"""One HTTP request as logs and traces tell it: what, when, how much; never prompts, answers or keys."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from serve.request import Event, GenerationRequest, Routing
from serve.times import Times

if TYPE_CHECKING:
    from serve.api.trials import Trial


@dataclass
class Exchange:
    """Filled in while the request is answered.

    path: percent-encoded, without query. trace: the headers ``traceparent`` and ``tracestate``. began, ended:
    seconds of time.monotonic; ``wall`` turns such into unix time. status: 0 = nothing was sent. left: the
    client hung up before the end. answers: the engine's times for each choice. routing: of the first event;
    finished: of each choice that has ended. trial: the experiment that it takes part in. pieces: of the
    answer's text, None where nobody needs it.

    model, prompt_tokens, routing and answers stay empty for requests that ask for no answer, or are refused.
    """

    method: str
    path: str
    trace: dict[str, str]
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    request_id: str | None = None
    status: int = 0
    left: bool = False
    complete: bool = False
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    routing: Routing | None = None
    finished: list[Routing] = field(default_factory=list)
    finish_reasons: list[str] = field(default_factory=list)
    trial: Trial | None = None
    answers: list[Times] = field(default_factory=list)
    pieces: list[str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._epoch = time.time() - time.monotonic()

    def wall(self, moment: float) -> float:
        """Seconds since 1970 of a moment of time.monotonic."""
        return self._epoch + moment

    def asks(
        self, model: str, requests: Sequence[GenerationRequest], prompt_tokens: int
    ) -> list[GenerationRequest]:
        """The same requests, whose times are told here. model: an id that exists."""
        self.model, self.prompt_tokens, self.completion_tokens = model, prompt_tokens, 0
        self.answers = [Times() for _ in requests]
        return [replace(request, times=times) for request, times in zip(requests, self.answers, strict=True)]

    def hears(self, event: Event) -> None:
        """One event of an answer."""
        self.completion_tokens = (self.completion_tokens or 0) + len(event.token_ids)
        self.routing = self.routing or event.routing
        if self.pieces is not None:
            self.pieces.append(event.text)
        if event.finish_reason:
            self.finish_reasons.append(event.finish_reason)
            self.finished.append(event.routing)
