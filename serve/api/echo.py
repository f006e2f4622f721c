"""Prompts that are sent back before their answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Echo:
    """One prompt. ids: its tokens. scored: whether their log-probabilities go with it."""

    text: str
    ids: list[int]
    scored: bool

    @classmethod
    def of(cls, tokenizer: Any, prompt: str | list[int], ids: list[int], scored: bool) -> Echo:
        """A text comes back as it was sent; token ids as their text without special tokens, as answers."""
        text = prompt if isinstance(prompt, str) else tokenizer.decode(ids, skip_special_tokens=True)
        return cls(text, ids, scored)
