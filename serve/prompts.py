"""Conversations to token ids, the same way for requests, evaluation and the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from router.text import routing_text


def chat_ids(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Token ids of a conversation by the model's own chat template, up to where the answer begins;
    a model without a template gets the user's plain text. Raises what the template raises."""
    if tokenizer.chat_template is None:
        return list(tokenizer(routing_text(messages))["input_ids"])
    ids = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return list(ids)
