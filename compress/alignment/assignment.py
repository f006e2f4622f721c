"""The one-to-one assignment with the largest sum."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def assign(scores: Tensor) -> Tensor:
    """``scores`` [n, n], reference along the first axis -> order [n]: row i takes column ``order[i]``.

    Exact (Jonker and Volgenant's algorithm, as scipy has it), and the same at every run.
    """
    _, columns = linear_sum_assignment(scores.numpy(), maximize=True)
    return torch.from_numpy(columns)
