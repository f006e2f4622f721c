"""What clients get: OpenAI's response bodies with ``routing`` in each choice.

Fields are written out only where they were set, so that "absent" and "null" stay different things,
as they are in OpenAI's streams.
"""

from __future__ import annotations

from typing import Literal

from fastapi.responses import Response
from pydantic import BaseModel

from serve.request import Routing

FinishReason = Literal["stop", "length"]


class Sent(BaseModel):
    def json_text(self) -> str:
        return self.model_dump_json(exclude_unset=True)

    def response(self, headers: dict[str, str] | None = None) -> Response:
        return Response(self.json_text(), media_type="application/json", headers=headers)


class PromptTokensDetails(Sent):
    """cached_tokens: prompt tokens whose keys and values an earlier request had left in the prefix cache."""

    cached_tokens: int


class Usage(Sent):
    """Token counts over all prompts, each counted once, and all answers of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> Usage:
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=cached_tokens),
        )


class CompletionLogprobs(Sent):
    """Of each token its text, log-probability, those of the likeliest tokens by text (and its own
    among them), and where in the choice's text it begins, in characters. An echoed prompt's first token
    follows nothing: it has None for both."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TopLogprob(Sent):
    """bytes: the token's UTF-8, None where the tokenizer does not tell."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatTokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Sent):
    content: list[ChatTokenLogprob]
    refusal: None


class CompletionChoice(Sent):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None
    routing: Routing | None = None


class Completion(Sent):
    """A whole answer, and each chunk of a streamed one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class ChatMessage(Sent):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Sent):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    routing: Routing


class ChatCompletion(Sent):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(Sent):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(Sent):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    routing: Routing | None = None


class ChatChunk(Sent):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class RouteScore(Sent):
    """index: position in the input. known: False when the router abstained."""

    index: int
    probabilities: dict[str, float]
    mixture: dict[str, float]
    confidence: float
    known: bool


class RouteScores(Sent):
    object: Literal["list"]
    data: list[RouteScore]


class Model(Sent):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Sent):
    object: Literal["list"]
    data: list[Model]


class ExamplePrompt(Sent):
    task: str
    prompt: str


class ExamplePrompts(Sent):
    object: Literal["list"]
    data: list[ExamplePrompt]


class Status(Sent):
    status: str


class ErrorDetail(Sent):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Sent):
    error: ErrorDetail
