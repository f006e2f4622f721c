"""Fisher-weighted averaging (Matena and Raffel 2022, arXiv:2111.09832)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from compress.fishers import Fisher
from compress.merging.calibrated import CalibratedParameters
from compress.merging.method import Group, MergeMethod, Source


class FisherParameters(CalibratedParameters):
    """``floor``: least weight of an element, relative to the mean over a parameter; where no prompt moves
    anything, the merge is the average."""

    floor: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1e-6

    @model_validator(mode="after")
    def _given(self) -> FisherParameters:
        if self.prompts is None:
            raise ValueError("give prompts, the folder with TASK.jsonl for every task")
        return self


def open_fishers(source: Source, parameters: FisherParameters) -> dict[str, Fisher]:
    """Every task's Fisher information, as this build gathered it."""
    folder = source.statistics(None)
    return {task: Fisher(folder / task, source.sha256(task)) for task in source.tasks}


def fisher(group: Group, parameters: FisherParameters, facts: Mapping[str, Fisher]) -> Tensor:
    """``sum F_t W_t / sum F_t``, element by element."""
    weights = torch.stack([facts[task].read(group.parameter.name) for task in group.vectors])
    mean = weights.mean()
    weights = weights.clamp_(min=parameters.floor * float(mean)) if mean > 0 else torch.ones_like(weights)
    vectors = torch.stack(list(group.vectors.values()))
    return group.base + (weights * vectors).sum(0) / weights.sum(0)


FISHER = MergeMethod(
    name="fisher",
    title="Fisher-weighted averaging",
    paper="https://arxiv.org/abs/2111.09832",
    formula="W = Σ F_t ⊙ W_t / Σ F_t",
    parameters=FisherParameters,
    merge=fisher,
    scope="tensor",
    data="fisher",
    survey=open_fishers,
)
