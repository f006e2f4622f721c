"""POST /v1/completions: plain prompts, one or many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from serve.api.answers import Answer
from serve.api.deadline import request_timeout
from serve.api.disconnect import until_disconnect
from serve.api.echo import Echo
from serve.api.generation import Stamp, respond
from serve.api.logprobs import CompletionLogprobsForm
from serve.api.models import resolve
from serve.api.parameters import check_stream_options, sampling_params
from serve.api.prompts import aside, check_characters, check_routable, prompt_ids, prompt_turns
from serve.api.responses import Completion, CompletionChoice, CompletionLogprobs, Usage
from serve.api.schemas import CompletionRequest
from serve.api.streaming import STREAMED
from serve.api.surface import ReadyEngine
from serve.api.trials import enter
from serve.request import Event, GenerationRequest, TokenLogprob

# OpenAI's default for this route, and what its clients count on.
DEFAULT_MAX_TOKENS = 16

routes = APIRouter()


@routes.post("/v1/completions", response_model=Completion, responses=STREAMED)
async def complete(body: CompletionRequest, http: Request, engine: ReadyEngine) -> Response:
    """Continue one prompt or several, each ``n`` times; all are answered at once, as choices by index:
    those of the first prompt, then those of the next."""
    target = resolve(engine, body.model, body.mixture)
    engine, answering = enter(http, engine, body, target)
    check_stream_options(body)
    timeout = request_timeout(http)
    http.state.ticket.enter(len(body.prompt) * body.choices)

    for prompt in body.prompt:
        if isinstance(prompt, str):
            check_characters(engine, len(prompt), "prompt")
    echoes: list[Echo] = []

    def requests() -> list[GenerationRequest]:
        made: list[GenerationRequest] = []
        for prompt, readable in zip(body.prompt, body.readable, strict=True):
            ids = prompt_ids(engine.tokenizer, prompt)
            params = sampling_params(engine, body, len(ids), DEFAULT_MAX_TOKENS, "prompt")
            turns, read = prompt_turns(engine.tokenizer, prompt if readable is None else ids[:readable])
            check_routable(target, turns, "prompt")
            read, joined = readable if read is None else read, bool(body.echo)
            request = GenerationRequest(ids, params, answering, turns, timeout, read, joined)
            made += request.choices(body.choices)
            if body.echo:
                echo = Echo.of(engine.tokenizer, prompt, ids, params.prompt_logprobs is not None)
                echoes.extend([echo] * body.choices)
        return made

    asked = await until_disconnect(http.receive, aside(requests))
    form = CompletionForm(Stamp(body.model, "cmpl"), engine.tokenizer, echoes)
    return await respond(http, engine, body, asked, form)


class CompletionForm:
    """Answers as OpenAI's ``text_completion`` objects. echoes: what goes before each choice's answer, or
    nothing at all."""

    def __init__(self, stamp: Stamp, tokenizer: Any, echoes: Sequence[Echo]) -> None:
        self.stamp = stamp
        self.echoes = dict(enumerate(echoes))
        self.logprobs: defaultdict[int, CompletionLogprobsForm] = defaultdict(
            lambda: CompletionLogprobsForm(tokenizer)
        )

    def whole(self, answers: Sequence[Answer], usage: Usage) -> Completion:
        completion = self._completion(
            [
                CompletionChoice(
                    index=index,
                    text=self._text(index, answer.text),
                    logprobs=self._logprobs(index, answer.logprobs, answer.prompt_logprobs),
                    finish_reason=answer.end.finish_reason,
                    routing=answer.end.routing,
                )
                for index, answer in enumerate(answers)
            ]
        )
        completion.usage = usage
        return completion

    def chunks(self, index: int, event: Event, *, first: bool) -> Iterable[Completion]:
        if not (first or event.text or event.finish_reason or event.logprobs):
            return  # half a character: its text comes with a later token
        choice = CompletionChoice(
            index=index,
            text=self._text(index, event.text),
            logprobs=self._logprobs(index, event.logprobs, event.prompt_logprobs),
            finish_reason=event.finish_reason,
        )
        # Sent back once, before the answer.
        self.echoes.pop(index, None)
        if first or event.finish_reason:
            choice.routing = event.routing
        yield self._completion([choice])

    def usage_chunk(self, usage: Usage) -> Completion:
        chunk = self._completion([])
        chunk.usage = usage
        return chunk

    def _text(self, index: int, text: str) -> str:
        echo = self.echoes.get(index)
        return text if echo is None else echo.text + text

    def _logprobs(
        self, index: int, answer: Sequence[TokenLogprob], prompt: Sequence[TokenLogprob]
    ) -> CompletionLogprobs | None:
        echo = self.echoes.get(index)
        return self.logprobs[index].of(answer, echo if echo and echo.scored else None, prompt)

    def _completion(self, choices: list[CompletionChoice]) -> Completion:
        return Completion(
            id=self.stamp.id,
            object="text_completion",
            created=self.stamp.created,
            model=self.stamp.model,
            choices=choices,
        )
