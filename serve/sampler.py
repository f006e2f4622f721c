"""From logits to tokens: each row by its own request's parameters and random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from serve import penalties
from serve.grammar import Constraint, restrict
from serve.logprobs import logprobs
from serve.request import SamplingParams, TokenLogprob
from serve.truncation import column, truncate

# Below this the distribution is one token anyway.
GREEDY_BELOW = 1e-5


@dataclass(eq=False)
class Row:
    """One request in a batch. Keep it from step to step: it remembers which tokens the prompt holds.

    generator: made by ``generator`` once for the request. prompt: its token ids. tokens: those
    generated so far, the caller's own growing list. constraint: which tokens may come next; the caller
    lets it accept each.
    """

    params: SamplingParams
    generator: torch.Generator | None
    prompt: Sequence[int]
    tokens: Sequence[int]
    constraint: Constraint | None = None

    @cached_property
    def prompt_ids(self) -> frozenset[int]:
        """The different tokens of the prompt."""
        return frozenset(self.prompt)


@dataclass(frozen=True)
class Picked:
    """The token of one row; its log-probability where the request asks for it."""

    token: int
    logprob: TokenLogprob | None = None


def generator(params: SamplingParams) -> torch.Generator | None:
    """A request's own source of random numbers, so that they do not depend on what else is in the
    batch; None for greedy decoding."""
    if params.temperature < GREEDY_BELOW:
        return None
    source = torch.Generator()
    if params.seed is None:
        source.seed()
    else:
        source.manual_seed(params.seed)
    return source


def sample(logits: Tensor, rows: Sequence[Row]) -> list[Picked]:
    """One token for each row of ``logits`` [rows, vocabulary], of any floating type on any device.

    Constraints (serve.grammar), bias and penalties (serve.penalties) come first. Temperature 0 (and what
    is as good as 0) is greedy. Otherwise logits are divided by the temperature and truncated
    (serve.truncation), and one uniform number from the row's generator draws a token by inverse transform.
    ``logits`` is left as it is. A row that is ``broken`` gets a meaningless token and harms no other.
    """
    tokens = _tokens(logits, rows).tolist()
    found = _logprobs(logits, rows, tokens)
    return [Picked(token, found.get(i)) for i, token in enumerate(tokens)]


def broken(logits: Tensor) -> list[bool]:
    """Rows of ``logits`` [rows, vocabulary] that no token can be drawn from: they hold NaN or +inf,
    or nothing but -inf."""
    # The maximum is NaN where any value is, so one reduction tells it all.
    flags: list[bool] = (~logits.amax(-1).isfinite()).tolist()
    return flags


def _tokens(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    plain, edited, drawn = [], [], []
    for index, row in enumerate(rows):
        if row.params.temperature >= GREEDY_BELOW:
            drawn.append(index)
        elif row.constraint is not None or penalties.wanted(row.params):
            edited.append(index)
        else:
            plain.append(index)
    if len(plain) == len(rows):
        return logits.argmax(-1)
    tokens = torch.empty(len(rows), dtype=torch.long, device=logits.device)
    if plain:
        tokens[plain] = logits[plain].argmax(-1)
    if edited:
        tokens[edited] = _penalized(logits, rows, edited).argmax(-1)
    if drawn:
        scaled = _penalized(logits, rows, drawn)
        # The likeliest token at 0, so that a division by a small temperature cannot overflow.
        scaled -= scaled.amax(-1, keepdim=True)
        scaled /= column(scaled, [rows[i].params.temperature for i in drawn])
        truncate(scaled, [rows[i].params for i in drawn])
        tokens[drawn] = _draw(scaled, [rows[i].generator for i in drawn])
    return tokens


def _penalized(logits: Tensor, rows: Sequence[Row], chosen: list[int]) -> Tensor:
    """A float32 copy of the ``chosen`` rows with constraints, bias and penalties."""
    copy = logits[chosen].float()
    restrict(copy, [rows[i].constraint for i in chosen])
    penalties.penalize(copy, [rows[i] for i in chosen])
    return copy


def _draw(logits: Tensor, generators: Sequence[torch.Generator | None]) -> Tensor:
    probabilities = logits.softmax(-1)
    uniform = column(logits, [float(torch.rand((), generator=g)) for g in generators])
    cumulated = probabilities.cumsum(-1)
    # A search, because comparing every token with the number costs more than all the rest. The number
    # is below 1, so that rounded too the product is below the last sum, and the place inside the row.
    place = torch.searchsorted(cumulated, uniform * cumulated[:, -1:], right=True)
    # Not so in a row of NaN; and sums made in parallel may step up where a token has no probability.
    place.clamp_(max=logits.shape[-1] - 1)
    possible = probabilities.gather(-1, place) > 0
    return torch.where(possible, place, logits.argmax(-1, keepdim=True)).squeeze(-1)


def _logprobs(logits: Tensor, rows: Sequence[Row], tokens: list[int]) -> dict[int, TokenLogprob]:
    wanted = [i for i, row in enumerate(rows) if row.params.logprobs is not None]
    if not wanted:
        return {}
    tops = [rows[i].params.logprobs or 0 for i in wanted]
    return dict(zip(wanted, logprobs(logits[wanted], [tokens[i] for i in wanted], tops), strict=True))
