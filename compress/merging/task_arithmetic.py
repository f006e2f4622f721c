"""Task arithmetic (Ilharco et al. 2023, arXiv:2212.04089): add scaled task vectors to the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from compress.errors import InputError
from compress.merging.method import MergeMethod

Scaling = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False, strict=True)]


class TaskArithmeticParameters(BaseModel):
    """``scaling``: one lambda for all tasks, or one per task."""

    model_config = ConfigDict(extra="forbid")
    scaling: Scaling | dict[str, Scaling] = 0.3


def coefficients(tasks: Sequence[str], parameters: TaskArithmeticParameters) -> dict[str, float]:
    """lambda_t of every task. Raises InputError unless a per-task table names exactly the tasks."""
    if not isinstance(parameters.scaling, dict):
        return dict.fromkeys(tasks, parameters.scaling)
    if set(parameters.scaling) != set(tasks):
        wrong = sorted(set(parameters.scaling) ^ set(tasks))
        raise InputError(f"shared.scaling: give one value for every task; differs in {', '.join(wrong)}")
    return {task: parameters.scaling[task] for task in tasks}


TASK_ARITHMETIC = MergeMethod(
    name="task_arithmetic",
    parameters=TaskArithmeticParameters,
    coefficients=coefficients,
)
