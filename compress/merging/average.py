"""Weight averaging (Wortsman et al. 2022, "Model soups", arXiv:2203.05482)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from compress.errors import InputError
from compress.merging.method import Parameters, linear, per_task

Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False, strict=True)]


class AverageParameters(Parameters):
    """``weight``: how much each fine-tune counts, relative to the others."""

    weight: Weight | dict[str, Weight] = 1.0


def coefficients(tasks: Sequence[str], parameters: AverageParameters) -> dict[str, float]:
    """lambda_t = weight_t / sum of weights. Raises InputError where all weights are zero."""
    weights = per_task("weight", parameters.weight, tasks)
    total = sum(weights.values())
    if total == 0:
        raise InputError("shared.weight: all weights are zero; give at least one fine-tune a weight")
    return {task: weight / total for task, weight in weights.items()}


AVERAGE = linear(
    "average",
    "weight averaging",
    "https://arxiv.org/abs/2203.05482",
    "W = Σ w_t W_t / Σ w_t",
    AverageParameters,
    coefficients,
    needs_base=False,
)
