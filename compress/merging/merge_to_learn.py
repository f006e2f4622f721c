"""Merge to Learn (Morrison et al. 2024, arXiv:2410.12937): add skills to a general fine-tune.

``W = W_G + sum_s omega_s (W_s - W_0)``, where skills were learnt from the pretrained model and not from the
general one. Without validation data the paper weighs a skill by its share of training steps, |D| / |G|.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, model_validator

from compress.errors import InputError
from compress.merging.method import Parameters, Scaling, linear

Count = Annotated[int, Field(gt=0, strict=True)]


class MergeToLearnParameters(Parameters):
    """``general``: the task whose fine-tune is the general model. ``omega``: a weight for all skills, or
    one per skill; or else ``examples``, how many examples each fine-tune was trained on."""

    general: str
    omega: Scaling | dict[str, Scaling] | None = None
    examples: dict[str, Count] | None = None

    @model_validator(mode="after")
    def _one(self) -> MergeToLearnParameters:
        if (self.omega is None) == (self.examples is None):
            raise ValueError("give either omega, or examples to take omega = |D| / |G|")
        return self


def coefficients(tasks: Sequence[str], parameters: MergeToLearnParameters) -> dict[str, float]:
    """1 for the general model, omega for skills. Raises InputError where the tables do not fit."""
    general, omega, examples = parameters.general, parameters.omega, parameters.examples
    if general not in tasks:
        raise InputError(f"shared.general: {general!r} is none of the tasks {', '.join(tasks)}")
    skills = [task for task in tasks if task != general]
    if not skills:
        raise InputError("shared.general: there is no skill to add; give a second fine-tune")
    if examples is not None:
        if set(examples) != set(tasks):
            wrong = ", ".join(sorted(set(examples) ^ set(tasks)))
            raise InputError(f"shared.examples: give the number for every task; differs in {wrong}")
        weights = {task: examples[task] / examples[general] for task in skills}
    elif isinstance(omega, dict):
        if set(omega) != set(skills):
            wrong = ", ".join(sorted(set(omega) ^ set(skills)))
            raise InputError(f"shared.omega: give one value for every skill; differs in {wrong}")
        weights = omega
    else:
        assert omega is not None
        weights = dict.fromkeys(skills, omega)
    return {task: 1.0 if task == general else weights[task] for task in tasks}


MERGE_TO_LEARN = linear(
    "merge_to_learn",
    "Merge to Learn (PTM)",
    "https://arxiv.org/abs/2410.12937",
    "W = W_G + Σ ω_s (W_s − W_0)",
    MergeToLearnParameters,
    coefficients,
    fewest=2,
)
