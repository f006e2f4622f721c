"""A request body's sampling fields as SamplingParams, with OpenAI's defaults."""

from __future__ import annotations

from serve.api.errors import ApiError
from serve.api.prompts import check_ids
from serve.api.schemas import Generation
from serve.api.surface import EngineSurface
from serve.request import SamplingParams

DEFAULT_TEMPERATURE = 1.0


def sampling_params(
    engine: EngineSurface, body: Generation, prompt_tokens: int, default: int | None, where: str
) -> SamplingParams:
    """How to answer a prompt of ``prompt_tokens`` tokens.

    default: tokens to generate when the client does not say, None = as many as fit. where: the
    field that holds the prompt. Raises ApiError 400 when the answer would not fit the context, or for
    a token id that does not exist.
    """
    stop_token_ids = body.stop_token_ids or []
    logit_bias = body.logit_bias or {}
    check_ids(engine.tokenizer, stop_token_ids, "stop_token_ids")
    check_ids(engine.tokenizer, logit_bias, "logit_bias")
    return SamplingParams(
        max_tokens=_max_tokens(engine.max_model_len, body, prompt_tokens, default, where),
        temperature=_or(body.temperature, DEFAULT_TEMPERATURE),
        top_p=_or(body.top_p, 1.0),
        seed=body.seed,
        stop=tuple(body.stop or ()),
        stop_token_ids=tuple(stop_token_ids),
        ignore_eos=bool(body.ignore_eos),
        top_k=max(0, body.top_k or 0),
        min_p=_or(body.min_p, 0.0),
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        logit_bias=logit_bias,
        logprobs=body.alternatives,
        prompt_logprobs=body.prompt_alternatives,
        json_schema=None if body.response_format is None else body.response_format.text,
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def check_stream_options(body: Generation) -> None:
    """Raise ApiError 400 for stream options without a stream, as OpenAI does."""
    if body.stream_options is not None and not body.stream:
        raise ApiError(
            400,
            "'stream_options' needs 'stream': true.",
            param="stream_options",
            code="invalid_value",
        )


def _max_tokens(limit: int, body: Generation, prompt_tokens: int, default: int | None, where: str) -> int:
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise ApiError(
            400,
            f"'max_tokens' is {old} and 'max_completion_tokens' is {new}; send one of them.",
            param="max_tokens",
            code="invalid_value",
        )
    asked = old if old is not None else new
    room, least = limit - prompt_tokens, 0 if asked == 0 else 1
    if room < least:
        raise ApiError(
            400,
            f"The prompt has {prompt_tokens} tokens and the model's context {limit}, answer"
            f" included; send at most {limit - least} tokens.",
            param=where,
            code="context_length_exceeded",
        )
    if asked is None:
        return room if default is None else min(default, room)
    if asked > room:
        param = "max_tokens" if old is not None else "max_completion_tokens"
        raise ApiError(
            400,
            f"The prompt has {prompt_tokens} tokens and '{param}' asks for {asked} more, but the"
            f" model's context is {limit} tokens; the largest '{param}' for this prompt is {room}.",
            param=param,
            code="context_length_exceeded",
        )
    return asked
