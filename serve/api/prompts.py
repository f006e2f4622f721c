"""Text and conversations as token ids."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import jinja2

from router import user_turns
from serve import prompts
from serve.api.errors import ApiError
from serve.api.schemas import Message
from serve.api.surface import EngineSurface
from serve.filledtemplate import conversation
from serve.request import Target

T = TypeVar("T")
_longest: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
# Two, so that one long prompt does not hold up all others; more would only take the engine's cores.
_threads = ThreadPoolExecutor(2, "twinserve-prompts")


async def aside(work: Callable[[], T]) -> T:
    """The result of ``work`` by another thread: a long prompt takes seconds to tokenise, in which nobody
    else's tokens could be sent. Raises what it raises."""
    return await asyncio.get_running_loop().run_in_executor(_threads, work)


def check_characters(engine: EngineSurface, count: int, param: str) -> None:
    """Raise ApiError 400 for a text of ``count`` characters that has more tokens than the context, whatever
    they are: to find that out by tokenising would take seconds of a text of megabytes."""
    most = engine.max_model_len * _longest_token(engine.tokenizer)
    if count > most:
        raise ApiError(
            400,
            f"The text has {count} characters, and the model's context of {engine.max_model_len} tokens never"
            f" holds more than {most}; send less.",
            param=param,
            code="context_length_exceeded",
        )


def _longest_token(tokenizer: Any) -> int:
    """Characters of the longest entry of the vocabulary."""
    if (known := _longest.get(tokenizer)) is None:
        known = _longest[tokenizer] = max(map(len, tokenizer.get_vocab()))
    return known


def prompt_ids(tokenizer: Any, prompt: str | list[int]) -> list[int]:
    """One prompt as token ids, with the special tokens the model expects around plain text.

    Raises ApiError 400 for a prompt without tokens or an id outside the vocabulary.
    """
    if isinstance(prompt, str):
        ids: list[int] = tokenizer.encode(prompt) if prompt else []
    else:
        ids = prompt
        check_ids(tokenizer, ids, "prompt")
    if not ids:
        raise ApiError(
            400,
            "The prompt is empty; send at least one token.",
            param="prompt",
            code="invalid_value",
        )
    return ids


def prompt_turns(tokenizer: Any, prompt: str | list[int]) -> tuple[tuple[str, ...], int | None]:
    """One prompt as the turns that the router reads: those of the user where it is the model's own chat
    template filled in, else all of it. Also from how many leading tokens they are, None = from all."""
    text = prompt if isinstance(prompt, str) else tokenizer.decode(prompt, clean_up_tokenization_spaces=False)
    if (found := conversation(tokenizer, text)) is not None and found.turns:
        answered = bool(text[found.end :])
        return found.turns, len(tokenizer.encode(text[: found.end])) if answered else None
    plain = text if isinstance(prompt, str) else tokenizer.decode(prompt, skip_special_tokens=True)
    return user_turns(plain), None


def chat_turns(messages: Sequence[Message]) -> tuple[str, ...]:
    """A conversation as the turns that the router reads: the user's, or else everybody's."""
    turns = user_turns([message.for_template() for message in messages])
    return turns or user_turns("\n".join(message.content for message in messages))


def check_routable(target: Target, turns: Sequence[str], param: str) -> None:
    """Raise ApiError 400 when the router is to choose and has nothing to go by."""
    if target.kind == "dynamic" and not turns:
        raise ApiError(
            400,
            f"'{param}' holds no text to route; send some, or name the weights with 'mixture' or"
            " a model id other than the dynamic one.",
            param=param,
            code="invalid_value",
        )


def chat_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """A conversation as token ids, up to where the assistant's answer begins.

    Raises ApiError 400 without messages, without a chat template, or with messages that the
    template refuses.
    """
    if not messages:
        raise ApiError(400, "'messages' is empty; send at least one.", param="messages", code="invalid_value")
    if tokenizer.chat_template is None:
        raise ApiError(
            400,
            "This model has no chat template; send plain text to /v1/completions instead.",
            param="messages",
            code="no_chat_template",
        )
    try:
        return prompts.chat_ids(tokenizer, [message.for_template() for message in messages])
    except jinja2.TemplateError as error:
        raise ApiError(
            400,
            f"The model's chat template refuses these messages: {error}.",
            param="messages",
            code="invalid_value",
        ) from error


def check_ids(tokenizer: Any, ids: Iterable[int], param: str) -> None:
    """Raise ApiError 400 when a token id does not exist."""
    size = len(tokenizer)
    for token in ids:
        if not 0 <= token < size:
            raise ApiError(
                400,
                f"'{param}' holds the token id {token}; ids of this model are 0 to {size - 1}.",
                param=param,
                code="invalid_value",
            )
