"""What a merge method declares about itself, and the sum that all linear ones share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from torch import Tensor


@dataclass(frozen=True)
class MergeMethod:
    """A linear merge ``W_s = W_0 + sum_t lambda_t tau_t``.

    ``parameters`` is the pydantic model of its settings in a recipe; ``coefficients`` turns those
    settings and the task names into lambda_t. Because the merge is linear, the shared base can also
    be reached from experts' factors without another copy of the weights.
    """

    name: str
    parameters: type[BaseModel]
    coefficients: Callable[[Sequence[str], Any], dict[str, float]]


def merge(base: Tensor, task_vectors: Iterable[tuple[float, Tensor]]) -> Tensor:
    """``base + sum lambda_t tau_t`` for one tensor; consumes the task vectors one at a time."""
    merged = base.clone()
    for scaling, task_vector in task_vectors:
        merged.add_(task_vector, alpha=scaling)
    return merged
