"""Log-probabilities of given tokens, from the model's own logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from serve.request import TokenLogprob

# Rows at once: the distributions of a whole chunk of a prompt would double what its logits take.
ROWS = 64


def logprobs(logits: Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenLogprob]:
    """For each row of ``logits`` [rows, vocabulary] the log-probability of its token, and those of as many
    of the most likely as ``tops`` says, at most the vocabulary. Computed in float32.
    """
    found: list[TokenLogprob] = []
    for start in range(0, len(tokens), ROWS):
        stop = start + ROWS
        found += _few(logits[start:stop], tokens[start:stop], tops[start:stop])
    return found


def _few(logits: Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenLogprob]:
    every = logits.float().log_softmax(-1)
    own = every.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    values, ids = every.topk(min(max(tops), logits.shape[-1]))
    return [
        TokenLogprob(token, logprob, tuple(zip(best[:top], best_values[:top], strict=True)))
        for token, logprob, top, best, best_values in zip(
            tokens, own, tops, ids.tolist(), values.tolist(), strict=True
        )
    ]
