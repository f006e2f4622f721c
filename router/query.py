"""What is routed: the user's own words, turn by turn, never the chat template around them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from compress.errors import InputError

T = TypeVar("T", str, list[int])


@dataclass(frozen=True)
class Turn:
    """One turn of the user as the router sees it: text and its token ids, both clipped."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Query:
    """What is scored for one request: the user's turns, oldest first."""

    turns: tuple[Turn, ...]

    @cached_property
    def key(self) -> bytes:
        """Equal for equal queries, and small however long they are."""
        return hashlib.sha256(repr(self.turns).encode("utf-8", "surrogatepass")).digest()


def user_turns(prompt: str | Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The texts that are scored for a request, oldest first, without white space around them.

    A string prompt is one turn. Of chat messages only the user's count; a content is a string or a
    list of OpenAI content parts of type "text". Turns without text are left out. Raises InputError for
    anything else.
    """
    if isinstance(prompt, str):
        return _spoken([prompt])
    if not isinstance(prompt, list | tuple):
        raise InputError(f"a prompt must be a string or a list of messages, not {_kind(prompt)}")
    turns = []
    for index, message in enumerate(prompt):
        where = f"messages[{index}]"
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InputError(f"{where} must be an object with a role and a content")
        if message["role"] == "user":
            turns.append(_content_text(message.get("content"), f"{where}.content"))
    return _spoken(turns)


def clip(content: T, limit: int) -> T:
    """``content``, or its first and last ``limit`` / 2 members: an instruction stands at an end."""
    if len(content) <= limit:
        return content
    head = limit // 2
    return content[:head] + content[len(content) - (limit - head) :]


def _spoken(turns: Sequence[str]) -> tuple[str, ...]:
    found = tuple(text for turn in turns if (text := turn.strip()))
    try:
        "".join(found).encode()
    except UnicodeEncodeError as error:
        raise InputError("the text holds half a character (a lone surrogate): send it as UTF-8") from error
    return found


def _content_text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise InputError(f"{where} must be a string or a list of text parts, not {_kind(content)}")
    texts = []
    for index, part in enumerate(content):
        text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise InputError(f'{where}[{index}] must be a part {{"type": "text", "text": "…"}}')
        texts.append(text)
    return "".join(texts)


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
