"""Tokens that end an answer."""

from __future__ import annotations

from typing import Any


def ending_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens by which the model ends an answer, and of the tokenizer's own end of text."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)
