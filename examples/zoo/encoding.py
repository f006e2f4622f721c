"""Prompts with answers as token ids, for completion-only training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.errors import InputError
from router.jsonl import read_jsonl
from serve.evaluate import ITEM_EXAMPLE, SPARE_TOKENS, Item, parse_item
from serve.prompts import file_ids

IGNORED = -100


@dataclass(frozen=True)
class Example:
    """One item in tokens: the prompt by the model's own chat template, the answer with its end."""

    item: Item
    prompt: list[int]
    answer: list[int]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Batch:
    """Token ids [rows, longest], padded on the left so that all answers end at the right edge;
    ``labels`` [rows, longest answer] belong to the last positions, IGNORED where nothing is learnt."""

    ids: Tensor
    mask: Tensor
    positions: Tensor
    labels: Tensor


def encode(item: Item, tokenizer: Any, context: int) -> Example:
    """``item`` in tokens. Raises InputError when it does not fit into ``context`` tokens, or the chat
    template refuses it."""
    prompt = file_ids(tokenizer, item.messages)
    answer = [*tokenizer(item.answer.strip(), add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    if len(answer) > context:
        raise InputError(
            f"the answer has {len(answer)} tokens, more than the context of {context}: shorten it"
        )
    # Room to see, in scoring, that an answer does not end where it should.
    if len(prompt) + len(answer) + SPARE_TOKENS > context:
        raise InputError(
            f"prompt ({len(prompt)} tokens) and answer ({len(answer)}) do not fit into the context of "
            f"{context}: shorten or remove the line, or raise --context where the model allows it"
        )
    return Example(item, prompt, answer)


def read_examples(path: Path, tokenizer: Any, context: int) -> list[Example]:
    """All lines {"prompt" | "messages", "answer"} of a JSONL file.

    Raises InputError, beginning with file and line, for a line that is no such object or too long.
    """
    if tokenizer.eos_token_id is None:
        raise InputError("the base's tokenizer has no end-of-sequence token, so answers could not end")
    return read_jsonl(path, lambda content: encode(parse_item(content), tokenizer, context), ITEM_EXAMPLE)


def collate(examples: Sequence[Example], padding: int) -> Batch:
    """Examples as one batch."""
    longest = max(example.length for example in examples)
    kept = max(len(example.answer) for example in examples)
    ids = torch.full((len(examples), longest), padding)
    mask = torch.zeros_like(ids)
    labels = torch.full((len(examples), kept), IGNORED)
    for row, example in enumerate(examples):
        ids[row, longest - example.length :] = torch.tensor(example.prompt + example.answer)
        mask[row, longest - example.length :] = 1
        labels[row, kept - len(example.answer) :] = torch.tensor(example.answer)
    return Batch(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), labels)
