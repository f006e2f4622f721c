"""POST /v1/chat/completions: conversations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from serve.api.answers import Answer
from serve.api.deadline import request_timeout
from serve.api.disconnect import until_disconnect
from serve.api.generation import Stamp, respond
from serve.api.logprobs import chat_logprobs
from serve.api.models import resolve
from serve.api.parameters import check_stream_options, sampling_params
from serve.api.prompts import aside, chat_ids, chat_turns, check_characters, check_routable
from serve.api.responses import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatMessage,
    ChunkChoice,
    Delta,
    Usage,
)
from serve.api.schemas import ChatRequest
from serve.api.streaming import STREAMED
from serve.api.surface import ReadyEngine
from serve.api.trials import enter
from serve.request import Event, GenerationRequest

routes = APIRouter()


@routes.post("/v1/chat/completions", response_model=ChatCompletion, responses=STREAMED)
async def chat(body: ChatRequest, http: Request, engine: ReadyEngine) -> Response:
    """Answer a conversation; by default until the model ends or the context is full."""
    target = resolve(engine, body.model, body.mixture)
    engine, answering = enter(http, engine, body, target)
    check_stream_options(body)
    timeout = request_timeout(http)
    http.state.ticket.enter(body.choices)
    check_characters(engine, sum(len(message.content) for message in body.messages), "messages")

    def requests() -> list[GenerationRequest]:
        ids = chat_ids(engine.tokenizer, body.messages)
        params = sampling_params(engine, body, len(ids), None, "messages")
        turns = chat_turns(body.messages)
        check_routable(target, turns, "messages")
        return GenerationRequest(ids, params, answering, turns, timeout).choices(body.choices)

    form = ChatForm(Stamp(body.model, "chatcmpl"), engine.tokenizer)
    asked = await until_disconnect(http.receive, aside(requests))
    return await respond(http, engine, body, asked, form)


class ChatForm:
    """Answers as OpenAI's ``chat.completion`` and ``chat.completion.chunk`` objects."""

    def __init__(self, stamp: Stamp, tokenizer: Any) -> None:
        self.stamp, self.tokenizer = stamp, tokenizer

    def whole(self, answers: Sequence[Answer], usage: Usage) -> ChatCompletion:
        return ChatCompletion(
            id=self.stamp.id,
            object="chat.completion",
            created=self.stamp.created,
            model=self.stamp.model,
            choices=[
                ChatChoice(
                    index=index,
                    message=ChatMessage(role="assistant", content=answer.text, refusal=None),
                    logprobs=chat_logprobs(self.tokenizer, answer.logprobs),
                    finish_reason=answer.end.finish_reason,
                    routing=answer.end.routing,
                )
                for index, answer in enumerate(answers)
            ],
            usage=usage,
        )

    def chunks(self, index: int, event: Event, *, first: bool) -> Iterable[ChatChunk]:
        if first:
            opening = self._choice(index, Delta(role="assistant", content=""))
            opening.routing = event.routing
            yield self._chunk([opening])
        if event.text or event.logprobs:
            middle = self._choice(index, Delta(content=event.text))
            middle.logprobs = chat_logprobs(self.tokenizer, event.logprobs)
            yield self._chunk([middle])
        if event.finish_reason:
            closing = self._choice(index, Delta())
            closing.finish_reason = event.finish_reason
            closing.routing = event.routing
            yield self._chunk([closing])

    def usage_chunk(self, usage: Usage) -> ChatChunk:
        chunk = self._chunk([])
        chunk.usage = usage
        return chunk

    def _choice(self, index: int, delta: Delta) -> ChunkChoice:
        return ChunkChoice(index=index, delta=delta, logprobs=None, finish_reason=None)

    def _chunk(self, choices: list[ChunkChoice]) -> ChatChunk:
        return ChatChunk(
            id=self.stamp.id,
            object="chat.completion.chunk",
            created=self.stamp.created,
            model=self.stamp.model,
            choices=choices,
        )
