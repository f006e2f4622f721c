"""Conversations to token ids, the same way for requests, evaluation and the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from compress.errors import InputError
from router import user_turns


def chat_ids(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Token ids of a conversation by the model's own chat template, up to where the answer begins;
    a model without a template gets the user's plain text. Raises what the template raises."""
    if tokenizer.chat_template is None:
        return list(tokenizer("\n".join(user_turns(messages)))["input_ids"])
    ids = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return list(ids)


def file_ids(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """``chat_ids`` of a conversation from a file. Raises InputError where the template refuses it."""
    try:
        return chat_ids(tokenizer, messages)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise InputError(
            f"the model's chat template refuses this conversation ({error}): mend or remove it"
        ) from error
