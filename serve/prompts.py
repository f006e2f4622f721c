"""Messages to token ids, the same way for requests, evaluation and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router.text import routing_text


def prompt_ids(tokenizer: Any, messages: Sequence[dict[str, Any]]) -> list[int]:
    """Token ids of a conversation by the model's own chat template, ready for the answer; a model
    without a template gets the user's plain text."""
    if getattr(tokenizer, "chat_template", None) is None:
        return list(tokenizer(routing_text(list(messages)))["input_ids"])
    ids = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return list(ids)
