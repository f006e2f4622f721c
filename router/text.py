"""What is routed: the user's own words, never the chat template around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compress.errors import InputError


def routing_text(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """The text that is scored for a request.

    A string prompt is taken as it is. Of chat messages only the user turns count, joined by
    newlines; a content is a string or a list of OpenAI content parts of type "text". Messages
    without a user turn give "". Raises InputError for anything else.
    """
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list | tuple):
        raise InputError(f"a prompt must be a string or a list of messages, not {_kind(prompt)}")
    turns = []
    for index, message in enumerate(prompt):
        where = f"messages[{index}]"
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InputError(f"{where} must be an object with a role and a content")
        if message["role"] == "user":
            turns.append(_content_text(message.get("content"), f"{where}.content"))
    return "\n".join(turns)


def routing_tokens(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a routing text: what a router is trained on is what it must be asked with."""
    return list(tokenizer(text, verbose=False)["input_ids"])


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
