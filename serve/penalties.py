"""Logits moved by what a request asks for and by what its text already holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from serve.request import SamplingParams

if TYPE_CHECKING:
    from serve.sampler import Row

# Row of the logits, token id, amount.
Cell = tuple[int, int, float]


def wanted(params: SamplingParams) -> bool:
    """Whether ``penalize`` would change a row with these parameters."""
    return (
        bool(params.logit_bias)
        or params.repetition_penalty != 1.0
        or params.presence_penalty != 0.0
        or params.frequency_penalty != 0.0
    )


def penalize(logits: Tensor, rows: Sequence[Row]) -> None:
    """Bias, repetition penalty, then presence and frequency penalties, in place.

    logits: [rows, vocabulary], float32. Only the cells that change are touched. Ids outside the
    vocabulary are passed over: an embedding may know more tokens than the model can say.

    Repetition penalty (Keskar et al. 2019, "CTRL"): a logit of a token of prompt or answer is
    divided by the penalty if positive, multiplied if negative. Presence and frequency (OpenAI's API
    reference): logit - [count > 0] * presence - count * frequency, counted in the answer.
    """
    if cells := _cells(logits, _biases(rows)):
        where, amount = cells
        logits[where] += amount
    if cells := _cells(logits, _repeated(rows)):
        where, amount = cells
        old = logits[where]
        logits[where] = torch.where(old < 0, old * amount, old / amount)
    if cells := _cells(logits, _counted(rows)):
        where, amount = cells
        logits[where] -= amount


def _biases(rows: Sequence[Row]) -> Iterable[Cell]:
    for index, row in enumerate(rows):
        for token, bias in row.params.logit_bias.items():
            yield index, token, bias


def _repeated(rows: Sequence[Row]) -> Iterable[Cell]:
    for index, row in enumerate(rows):
        penalty = row.params.repetition_penalty
        if penalty != 1.0:
            for token in row.prompt_ids.union(row.tokens):
                yield index, token, penalty


def _counted(rows: Sequence[Row]) -> Iterable[Cell]:
    for index, row in enumerate(rows):
        presence, frequency = row.params.presence_penalty, row.params.frequency_penalty
        if presence != 0.0 or frequency != 0.0:
            for token, count in Counter(row.tokens).items():
                yield index, token, presence + count * frequency


def _cells(logits: Tensor, cells: Iterable[Cell]) -> tuple[tuple[Tensor, Tensor], Tensor] | None:
    size = logits.shape[-1]
    known = [cell for cell in cells if 0 <= cell[1] < size]
    if not known:
        return None
    rows, tokens, amounts = zip(*known, strict=True)
    where = torch.tensor([rows, tokens], device=logits.device)
    return (where[0], where[1]), torch.tensor(amounts, dtype=logits.dtype, device=logits.device)
