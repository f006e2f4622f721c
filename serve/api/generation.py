"""From requests to an HTTP response, whole or streamed: the same walk for both routes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fastapi import Request
from starlette.responses import Response

from serve.api.answers import Answer, collect, first, merged
from serve.api.disconnect import until_disconnect
from serve.api.errors import ApiError
from serve.api.headers import routing_headers
from serve.api.responses import Sent, Usage
from serve.api.schemas import Generation
from serve.api.streaming import ChunkForm, EventStream, sse
from serve.api.surface import EngineSurface
from serve.api.tally import Tally
from serve.request import GenerationRequest, Routing


@dataclass
class Stamp:
    """What every object of one response repeats. created: seconds since 1970."""

    model: str
    prefix: str
    id: str = field(init=False)
    created: int = field(init=False)

    def __post_init__(self) -> None:
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())


class Form(ChunkForm, Protocol):
    """How one route writes answers."""

    stamp: Stamp

    def whole(self, answers: Sequence[Answer], usage: Usage) -> Sent:
        """The body of a response that is not streamed."""
        ...


async def respond(
    http: Request,
    engine: EngineSurface,
    body: Generation,
    requests: Sequence[GenerationRequest],
    form: Form,
) -> Response:
    """The engine's answers to ``requests`` as a response: all choices of the first prompt, then all of
    the next.

    Raises InputError for what the engine refuses and ApiError 400 for more prompt tokens than the settings
    allow, before anything is generated. A stream begins with its first event, so that its status and
    headers tell what happened until then.
    """
    prompts = requests[:: body.choices]
    prompt_tokens = sum(len(request.prompt) for request in prompts)
    _check_prompt_tokens(http, prompt_tokens)
    for request in prompts:
        engine.check(request)
    exchange = http.state.exchange
    requests = exchange.asks(body.model, requests, prompt_tokens)
    http.app.state.trials.begin(exchange, engine, form.stamp.id, requests[:: body.choices])
    tally = Tally(prompt_tokens, body.choices)
    if not body.stream:
        answers = await until_disconnect(http.receive, collect(engine, requests, exchange.hears))
        for index, answer in enumerate(answers):
            tally.add(index, answer.tokens, answer.cached)
        headers = _headers(http, prompts, answers[0].end.routing)
        return form.whole(answers, tally.usage).response(headers)

    events = merged(engine, requests, exchange.hears)
    try:
        opening = await until_disconnect(http.receive, first(events))
    except BaseException:
        # The first event may have come just as the client left: then nothing has closed them yet.
        await events.aclose()
        raise
    options = body.stream_options
    lines = sse(
        form,
        opening,
        events,
        tally=tally,
        include_usage=options is not None and bool(options.include_usage),
        request_id=http.state.request_id,
    )
    return EventStream(lines, events, _headers(http, prompts, opening[1].routing))


def _check_prompt_tokens(http: Request, tokens: int) -> None:
    most = http.app.state.settings.limits.prompt_tokens
    if most is not None and tokens > most:
        http.app.state.gate_metrics.refused["prompt_tokens"] += 1
        raise ApiError(
            400,
            f"The request's prompts have {tokens} tokens, and {most} are the most here; send it in parts, or"
            " shorter prompts.",
            code="too_many_prompt_tokens",
        )


def _headers(http: Request, prompts: Sequence[GenerationRequest], routing: Routing) -> dict[str, str]:
    # Several prompts have several routings: those are in the choices only. Their arm is one.
    routed = routing_headers(routing) if len(prompts) == 1 else {}
    trial = http.state.exchange.trial
    return routed if trial is None else {**routed, **trial.headers}
