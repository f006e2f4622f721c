"""What a merge method declares about itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True)
class MergeMethod:
    """A linear merge ``W_s = W_0 + sum_t lambda_t tau_t``.

    ``parameters`` is the pydantic model of its settings in a recipe; ``coefficients`` turns those
    settings and the task names into lambda_t. Because the merge is linear, the shared base can also
    be reached from experts' factors without another copy of the weights.
    """

    name: str
    paper: str
    parameters: type[BaseModel]
    coefficients: Callable[[Sequence[str], Any], dict[str, float]]
