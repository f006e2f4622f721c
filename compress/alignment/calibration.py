"""Calibration text as batches with something to predict, and the loss on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.errors import InputError

# Longer text is cut: correlations need many tokens, not long ones.
PIECE = 128
BATCH_TOKENS = 1024
MIN_TOKENS = 256
# The share of tokens that BERT was trained to fill in.
MASKED = 0.15
UNSCORED = -100


@dataclass(frozen=True)
class Batch:
    """``ids`` [rows, length]; ``real`` [rows, length]: what is no padding; ``targets`` [rows, length]: the
    token to predict at this place, or ``UNSCORED``."""

    ids: Tensor
    real: Tensor
    targets: Tensor


def causal_batches(sequences: Sequence[Sequence[int]], padding: int, length: int = PIECE) -> list[Batch]:
    """Batches of pieces of at most ``length`` tokens, in which each token's target is the next one.

    Raises InputError when the sequences hold too little to tell units apart.
    """
    batches = []
    for ids, real in _padded(sequences, padding, length):
        targets = torch.full_like(ids, UNSCORED)
        targets[:, :-1] = torch.where(real[:, 1:], ids[:, 1:], UNSCORED)
        batches.append(Batch(ids, real, targets))
    return _predicting(batches)


def masked_batches(
    sequences: Sequence[Sequence[int]],
    padding: int,
    mask: int,
    special: Sequence[int],
    length: int = PIECE,
) -> list[Batch]:
    """As ``causal_batches``, but 15 % of the tokens that are not ``special``, the same ones each time, read
    ``mask`` and are to be filled in."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for ids, real in _padded(sequences, padding, length):
        hidden = torch.rand(ids.shape, generator=generator) < MASKED
        hidden &= real & ~torch.isin(ids, torch.tensor(special))
        batches.append(Batch(ids.masked_fill(hidden, mask), real, ids.masked_fill(~hidden, UNSCORED)))
    return _predicting(batches)


def _padded(sequences: Sequence[Sequence[int]], padding: int, length: int) -> list[tuple[Tensor, Tensor]]:
    if not sequences:
        raise InputError("there are no prompts: units are matched by what they do on text, so give some")
    tokens = sum(len(ids) for ids in sequences)
    if tokens < MIN_TOKENS:
        raise InputError(
            f"the prompts hold {tokens} tokens, too few to tell units apart: give at least {MIN_TOKENS}, "
            "better some ten thousand"
        )
    pieces = [
        torch.tensor(ids[start : start + length]) for ids in sequences for start in range(0, len(ids), length)
    ]
    found = []
    size = BATCH_TOKENS // max(map(len, pieces))
    for start in range(0, len(pieces), size):
        rows = pieces[start : start + size]
        # Right padding keeps every token at the position that it has without any.
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)
        lengths = torch.tensor([len(row) for row in rows])
        found.append((ids, torch.arange(ids.shape[1]) < lengths[:, None]))
    return found


def _predicting(batches: list[Batch]) -> list[Batch]:
    if not any((batch.targets != UNSCORED).any() for batch in batches):
        raise InputError("the prompts leave nothing to predict: give longer ones")
    return batches


def loss(
    model: Any,
    weights: Mapping[str, Tensor] | None,
    batches: Sequence[Batch],
    step: Callable[[], None] = lambda: None,
) -> float:
    """Mean cross-entropy in nats a predicted token, of ``model`` with ``weights`` (its parameters' names)
    in place of its own; ``step`` is called after each batch."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for batch in batches:
            given = {"input_ids": batch.ids, "attention_mask": batch.real.long()}
            if weights is None:
                logits = model(**given).logits
            else:
                logits = torch.func.functional_call(model, dict(weights), (), given).logits
            scored = batch.targets != UNSCORED
            losses = F.cross_entropy(logits[scored].float(), batch.targets[scored], reduction="sum")
            total += float(losses.double())
            count += int(scored.sum())
            step()
    return total / count
