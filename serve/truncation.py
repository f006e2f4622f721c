"""Which tokens a request may draw from: top-k, nucleus and min-p, over the rows that ask for them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from serve.request import SamplingParams

# A nucleus seldom holds more tokens than this, and finding so few costs a tenth of sorting them all.
CANDIDATES = 1024


def truncate(logits: Tensor, params: Sequence[SamplingParams]) -> None:
    """Give the tokens that each row must not draw the logit -inf, in place.

    logits: [rows, vocabulary], float32, already divided by the temperature. One after the other, each
    on what the one before it left:

    - top_k: the k most likely, with those as likely as the last of them (Fan et al. 2018).
    - top_p: the smallest set of most likely tokens whose probability reaches top_p, and never
      none (Holtzman et al. 2020).
    - min_p: those at least min_p times as likely as the likeliest (Nguyen et al. 2024).

    What stays in a row depends on that row alone. transformers' warpers take one number for a whole
    batch, so they are what the tests compare with and not what runs here.
    """
    size = logits.shape[-1]
    if rows := [i for i, p in enumerate(params) if 0 < p.top_k < size]:
        logits[rows] = _top_k(logits[rows], [params[i].top_k for i in rows])
    if rows := [i for i, p in enumerate(params) if p.top_p < 1.0]:
        logits[rows] = _top_p(logits[rows], column(logits, [params[i].top_p for i in rows]))
    if rows := [i for i, p in enumerate(params) if p.min_p > 0.0]:
        logits[rows] = _min_p(logits[rows], [params[i].min_p for i in rows])


def column(like: Tensor, values: Sequence[float]) -> Tensor:
    """``values`` as [rows, 1], of the kind and on the device of ``like``."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def _top_k(logits: Tensor, ks: list[int]) -> Tensor:
    best = logits.topk(max(ks)).values
    last = best.gather(-1, torch.tensor(ks, device=logits.device)[:, None] - 1)
    return logits.masked_fill(logits < last, -math.inf)


def _top_p(logits: Tensor, top_p: Tensor) -> Tensor:
    size = logits.shape[-1]
    total = logits.logsumexp(-1, keepdim=True)
    last, reached = _nucleus_end(logits.topk(min(CANDIDATES, size)).values, total, top_p)
    if size > CANDIDATES:
        wide = (~reached).nonzero().squeeze(-1)
        if len(wide):
            ordered = logits[wide].sort(dim=-1, descending=True).values
            last[wide], _ = _nucleus_end(ordered, total[wide], top_p[wide])
    return logits.masked_fill(logits < last, -math.inf)


def _nucleus_end(ordered: Tensor, total: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor]:
    """The least logit of each nucleus [rows, 1], and whether ``ordered`` reaches so far [rows].

    ordered: the greatest logits, falling. total: logarithm of the sum of all logits' exponentials.
    """
    probabilities = (ordered - total).exp()
    cumulated = probabilities.cumsum(-1)
    count = (cumulated - probabilities < top_p).sum(-1, keepdim=True).clamp_min(1)
    return ordered.gather(-1, count - 1), (cumulated[:, -1:] >= top_p).squeeze(-1)


def _min_p(logits: Tensor, min_p: list[float]) -> Tensor:
    least = logits.amax(-1, keepdim=True) + column(logits, [math.log(p) for p in min_p])
    return logits.masked_fill(logits < least, -math.inf)
