"""Task arithmetic (Ilharco et al. 2023, arXiv:2212.04089): add scaled task vectors to the base."""

from __future__ import annotations

from collections.abc import Sequence

from compress.merging.method import Parameters, Scaling, linear, per_task


class TaskArithmeticParameters(Parameters):
    """``scaling``: one lambda for all tasks, or one per task."""

    scaling: Scaling | dict[str, Scaling] = 0.3


def coefficients(tasks: Sequence[str], parameters: TaskArithmeticParameters) -> dict[str, float]:
    """lambda_t of every task. Raises InputError unless a per-task table names exactly the tasks."""
    return per_task("scaling", parameters.scaling, tasks)


TASK_ARITHMETIC = linear(
    "task_arithmetic",
    "task arithmetic",
    "https://arxiv.org/abs/2212.04089",
    "W = W_0 + Σ λ_t τ_t",
    TaskArithmeticParameters,
    coefficients,
)
