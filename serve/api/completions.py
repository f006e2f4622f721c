"""POST /v1/completions: plain prompts, one or many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from serve.api.answers import Answer
from serve.api.generation import Stamp, respond
from serve.api.logprobs import CompletionLogprobsForm
from serve.api.models import resolve
from serve.api.parameters import check_stream_options, sampling_params
from serve.api.prompts import check_routable, prompt_ids, prompt_turns
from serve.api.responses import Completion, CompletionChoice, Usage
from serve.api.schemas import CompletionRequest
from serve.api.streaming import STREAMED
from serve.api.surface import ReadyEngine
from serve.request import Event, GenerationRequest

# OpenAI's default for this route, and what its clients count on.
DEFAULT_MAX_TOKENS = 16

routes = APIRouter()


@routes.post("/v1/completions", response_model=Completion, responses=STREAMED)
async def complete(body: CompletionRequest, http: Request, engine: ReadyEngine) -> Response:
    """Continue one prompt or several, each ``n`` times; all are answered at once, as choices by index:
    those of the first prompt, then those of the next."""
    target = resolve(engine, body.model, body.mixture)
    check_stream_options(body)
    requests: list[GenerationRequest] = []
    for prompt in body.prompt:
        ids = prompt_ids(engine.tokenizer, prompt)
        params = sampling_params(engine, body, len(ids), DEFAULT_MAX_TOKENS, "prompt")
        turns = prompt_turns(engine.tokenizer, prompt)
        check_routable(target, turns, "prompt")
        requests += GenerationRequest(ids, params, target, turns).choices(body.choices)
    form = CompletionForm(Stamp(body.model, "cmpl"), engine.tokenizer)
    return await respond(http, engine, body, requests, form)


class CompletionForm:
    """Answers as OpenAI's ``text_completion`` objects."""

    def __init__(self, stamp: Stamp, tokenizer: Any) -> None:
        self.stamp = stamp
        self.logprobs: defaultdict[int, CompletionLogprobsForm] = defaultdict(
            lambda: CompletionLogprobsForm(tokenizer)
        )

    def whole(self, answers: Sequence[Answer], usage: Usage) -> Completion:
        completion = self._completion(
            [
                CompletionChoice(
                    index=index,
                    text=answer.text,
                    logprobs=self.logprobs[index].of(answer.logprobs),
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
            text=event.text,
            logprobs=self.logprobs[index].of(event.logprobs),
            finish_reason=event.finish_reason,
        )
        if first or event.finish_reason:
            choice.routing = event.routing
        yield self._completion([choice])

    def usage_chunk(self, usage: Usage) -> Completion:
        chunk = self._completion([])
        chunk.usage = usage
        return chunk

    def _completion(self, choices: list[CompletionChoice]) -> Completion:
        return Completion(
            id=self.stamp.id,
            object="text_completion",
            created=self.stamp.created,
            model=self.stamp.model,
            choices=choices,
        )
