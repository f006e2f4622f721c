"""Logits moved by what a request asks for and by what its text already holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from serve.request import SamplingParams

if TYPE_CHECKING:
    from serve.sampler import Row

# A row of the logits, token ids, an amount for each.
Edit = tuple[int, Collection[int], Iterable[float]]


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


def _biases(rows: Sequence[Row]) -> Iterable[Edit]:
    for index, row in enumerate(rows):
        if bias := row.params.logit_bias:
            yield index, bias.keys(), bias.values()


def _repeated(rows: Sequence[Row]) -> Iterable[Edit]:
    for index, row in enumerate(rows):
        penalty = row.params.repetition_penalty
        if penalty != 1.0:
            tokens = row.prompt_ids.union(row.tokens)
            yield index, tokens, [penalty] * len(tokens)


def _counted(rows: Sequence[Row]) -> Iterable[Edit]:
    for index, row in enumerate(rows):
        presence, frequency = row.params.presence_penalty, row.params.frequency_penalty
        if presence != 0.0 or frequency != 0.0:
            counts = Counter(row.tokens)
            yield index, counts.keys(), [presence + count * frequency for count in counts.values()]


def _cells(logits: Tensor, edits: Iterable[Edit]) -> tuple[tuple[Tensor, Tensor], Tensor] | None:
    """The places in ``logits`` that ``edits`` change, each once, and by how much."""
    rows: list[int] = []
    tokens: list[int] = []
    amounts: list[float] = []
    for row, ids, values in edits:
        rows += [row] * len(ids)
        tokens += ids
        amounts += values
    if not rows:
        return None
    where = torch.tensor([rows, tokens])
    known = (where[1] >= 0) & (where[1] < logits.shape[-1])
    row_ids, token_ids = where[:, known].to(logits.device)
    return (row_ids, token_ids), torch.tensor(amounts, dtype=logits.dtype)[known].to(logits.device)
