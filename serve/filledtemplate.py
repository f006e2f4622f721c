"""Plain prompts that are the model's chat template filled in: which of their words are the user's.

Harnesses apply a model's template themselves, because log-probabilities of a prompt are only to be had from
completions. To the router such a prompt is the conversation it was made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jinja2

from router import user_turns

# Words of no language, that no template changes.
FIRST, ANSWER, SECOND = "qzfirstqz", "qzanswerqz", "qzsecondqz"


@dataclass(frozen=True)
class Conversation:
    """turns: the user's words, oldest first. end: characters of the prompt up to where the answer begins."""

    turns: tuple[str, ...]
    end: int


def conversation(tokenizer: Any, text: str) -> Conversation | None:
    """The conversation that ``text`` begins with, or None where it is not what the template makes of one.

    Users and assistant take turns, and the assistant's last turn is open: what follows is an answer, or
    nothing. Conversations with a system message of their own are not looked for.
    """
    if tokenizer.chat_template is None:
        return None
    try:
        return _found(tokenizer, text)
    except (jinja2.TemplateError, TypeError, ValueError):
        return None  # the template refuses turns like these, or does not show each just once


def _found(tokenizer: Any, text: str) -> Conversation | None:
    head, close = _rendered(tokenizer, [FIRST]).split(FIRST)
    _, reopen, _ = _rendered(tokenizer, [FIRST, ANSWER, SECOND]).replace(ANSWER, SECOND).split(SECOND)
    if not close or not reopen or not text.startswith(head):
        return None
    contents, place = [], len(head)
    while (end := text.find(close, place)) >= 0:
        contents.append(text[place:end])
        place = end + len(close)
        if (end := text.find(reopen, place)) < 0:
            break
        contents.append(text[place:end])
        place = end + len(reopen)
    # What the pieces say may be chance; that the template makes the same of the turns is not.
    if len(contents) % 2 == 0 or _rendered(tokenizer, contents) != text[:place]:
        return None
    return Conversation(user_turns(_messages(contents)), place)


def _rendered(tokenizer: Any, contents: list[str]) -> str:
    text: str = tokenizer.apply_chat_template(_messages(contents), add_generation_prompt=True, tokenize=False)
    return text


def _messages(contents: list[str]) -> list[dict[str, str]]:
    """User and assistant in turn."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
