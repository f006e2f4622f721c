"""From logits to tokens, row by row: temperature, nucleus and seed of every request."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from serve.request import SamplingParams

# Below this the division by the temperature overflows, and the distribution is one token anyway.
GREEDY_BELOW = 1e-5


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


def sample(
    logits: Tensor, params: Sequence[SamplingParams], generators: Sequence[torch.Generator | None]
) -> list[int]:
    """One token for each row of ``logits`` [rows, vocabulary].

    Temperature 0 (and what is as good as 0) is greedy. Otherwise one uniform number a row picks from
    the smallest set of most likely tokens whose probability reaches ``top_p`` (Holtzman et al. 2020),
    by inverse transform.
    """
    tokens = logits.argmax(-1)
    rows = [i for i, p in enumerate(params) if p.temperature >= GREEDY_BELOW]
    if rows:
        tokens[rows] = _nucleus(logits[rows], [params[i] for i in rows], [generators[i] for i in rows])
    return [int(token) for token in tokens.tolist()]


def _nucleus(
    logits: Tensor, params: Sequence[SamplingParams], generators: Sequence[torch.Generator | None]
) -> Tensor:
    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=logits.device)[:, None]

    scaled = logits.float() / column([p.temperature for p in params])
    probabilities, order = scaled.softmax(-1).sort(dim=-1, descending=True, stable=True)
    before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill(before >= column([p.top_p for p in params]), 0.0)
    # The most likely token always stays, also at top_p = 0.
    probabilities[:, 0] = probabilities[:, 0].clamp_min(torch.finfo(torch.float32).tiny)
    cumulated = probabilities.cumsum(-1)
    uniform = column([float(torch.rand((), generator=g)) for g in generators])
    chosen = (cumulated <= uniform * cumulated[:, -1:]).sum(-1, keepdim=True)
    # Rounding may push the count past the nucleus, whose size is the last index with mass.
    last = ((probabilities > 0).sum(-1, keepdim=True) - 1).clamp_min(0)
    return order.gather(-1, torch.minimum(chosen, last)).squeeze(-1)
