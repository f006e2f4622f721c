"""TIES (Yadav et al. 2023, arXiv:2306.01708): trim, elect signs, average those that agree.

Two methods go by this name. ``ties`` trims as the authors' code does, by magnitude over the whole model, and
averages what agrees. ``ties_per_tensor`` is mergekit's: every tensor is trimmed by itself, and what agrees is
weighed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from compress.merging.method import (
    Density,
    Group,
    MergeMethod,
    Parameters,
    Scaling,
    Source,
    per_task,
)
from compress.merging.selection import kth_magnitude, nth_largest
from compress.parallel import each

PAPER = "https://arxiv.org/abs/2306.01708"


@dataclass(frozen=True)
class Trim:
    """What of a task vector stays: magnitudes above ``value``, and equal ones up to position ``last`` of the
    flattened parameter."""

    value: float
    last: int

    def __call__(self, vector: Tensor, start: int) -> Tensor:
        """``vector`` with zeros for what goes; ``start``: position of its first element."""
        flat, stay = vector.reshape(-1), self.last + 1 - start
        if stay <= 0:
            return hardshrink(vector, self.value)
        if stay >= flat.numel():
            return hardshrink(vector, self._below)
        return torch.cat((hardshrink(flat[:stay], self._below), hardshrink(flat[stay:], self.value))).view_as(
            vector
        )

    @property
    def _below(self) -> float:
        """The largest float32 below ``value``."""
        return float(np.nextafter(np.float32(self.value), np.float32(-np.inf)))


EVERYTHING = Trim(-1.0, -1)


class TiesParameters(Parameters):
    """``density``: share of each task vector that stays. ``scaling``: lambda of the merged vector."""

    density: Density | dict[str, Density] = 0.2
    scaling: Scaling = 1.0


class Survey:
    """What must be known of all task vectors before the first parameter is merged."""

    def __init__(self, source: Source, parameters: TiesParameters) -> None:
        self._source = source
        size = sum(torch.Size(parameter.shape).numel() for parameter in source.table.values())
        densities = per_task("density", parameters.density, source.tasks)

        def trim(task: str) -> Trim:
            # As the authors count: the (size - int(size density))-th smallest stays, and all above it.
            k = size - int(size * densities[task])
            if k < 1:
                return EVERYTHING
            return Trim(kth_magnitude(lambda: _parts(source, task), k), size)

        self.trims = dict(zip(source.tasks, each(trim, source.tasks), strict=True))

    @cached_property
    def majority(self) -> float:
        """The sign that more elected signs have in the whole model. It decides only where trimmed vectors
        cancel exactly, and is not looked for before that happens."""
        groups = (group for name in self._source.table for group in self._source.groups(name))
        return float(np.sign(sum(int(elected(self.trimmed(group)).sum()) for group in groups)))

    def trimmed(self, group: Group) -> list[Tensor]:
        return [self.trims[task](vector, group.start) for task, vector in group.vectors.items()]


def _parts(source: Source, task: str) -> Iterator[Tensor]:
    return (part for name in source.table for _, part in source.vector(task, name))


def elected(trimmed: list[Tensor]) -> Tensor:
    """The sign of each element's sum."""
    return torch.stack(trimmed).sum(0).sign_()


def ties(group: Group, parameters: TiesParameters, facts: Survey) -> Tensor:
    """``W_0 + lambda`` times the mean of those trimmed elements whose sign is the elected one."""
    trimmed = facts.trimmed(group)
    signs = elected(trimmed)
    undecided = signs == 0
    if undecided.any() and torch.stack(trimmed).any(0).logical_and_(undecided).any():
        signs[undecided] = facts.majority
    total, count = torch.zeros_like(group.base), torch.zeros_like(group.base)
    for vector in trimmed:
        # What agrees, with its sign off.
        agreeing = vector.mul_(signs).clamp_(min=0)
        total += agreeing
        count += agreeing.sign_()
    return total.mul_(signs).div_(count.clamp_(min=1)).mul_(parameters.scaling).add_(group.base)


TIES = MergeMethod(
    name="ties",
    title="TIES, trimmed over the whole model",
    paper=PAPER,
    formula="W = W_0 + λ mean{τ̂_t : sign τ̂_t = sign Σ τ̂}",
    parameters=TiesParameters,
    merge=ties,
    survey=Survey,
)


class TiesPerTensorParameters(Parameters):
    """``density``: share of each tensor of a task vector that stays. ``weight``: how much a fine-tune counts
    in the sign's election and in the sum. ``scaling``: lambda of the merged vector. ``normalize``: divide by
    the weights of those that agree."""

    density: Density | dict[str, Density] = 0.2
    weight: Scaling | dict[str, Scaling] = 1.0
    scaling: Scaling = 1.0
    normalize: bool = True


def trim_tensors(source: Source, parameters: TiesPerTensorParameters) -> dict[str, dict[str, Trim]]:
    """task -> parameter -> the ``int(density size)`` largest magnitudes, at least one; of equal ones the
    first."""
    densities = per_task("density", parameters.density, source.tasks)

    def trims(task: str) -> dict[str, Trim]:
        if densities[task] >= 1:
            return dict.fromkeys(source.table, EVERYTHING)
        found = {}
        for name, parameter in source.table.items():
            size = torch.Size(parameter.shape).numel()
            count = max(1, int(densities[task] * size))
            found[name] = Trim(*nth_largest(partial(source.vector, task, name), size, count))
        return found

    return dict(zip(source.tasks, each(trims, source.tasks), strict=True))


def ties_per_tensor(
    group: Group, parameters: TiesPerTensorParameters, facts: Mapping[str, Mapping[str, Trim]]
) -> Tensor:
    """mergekit's ``ties``: the weighted sum of trimmed elements that have the elected sign, divided by
    their weights."""
    weights = per_task("weight", parameters.weight, list(group.vectors))
    name = group.parameter.name
    trimmed = [facts[task][name](v, group.start).mul_(weights[task]) for task, v in group.vectors.items()]
    # As it counts there, a sum of zero is positive.
    signs = torch.stack(trimmed).sum(0).sign_().add_(0.5).sign_()
    total, divisor = torch.zeros_like(group.base), torch.zeros_like(group.base)
    for task, vector in zip(group.vectors, trimmed, strict=True):
        agreeing = vector.mul_(signs).clamp_(min=0)
        total += agreeing
        divisor.add_(agreeing.sign_(), alpha=weights[task])
    total.mul_(signs)
    if parameters.normalize:
        total /= divisor.masked_fill_(divisor == 0, 1.0)
    return total.mul_(parameters.scaling).add_(group.base)


TIES_PER_TENSOR = MergeMethod(
    name="ties_per_tensor",
    title="TIES as mergekit has it, trimmed tensor by tensor",
    paper=PAPER,
    formula="W = W_0 + λ Σ{w_t τ̂_t : agreeing} / Σ{w_t : agreeing}",
    parameters=TiesPerTensorParameters,
    merge=ties_per_tensor,
    survey=trim_tensors,
)
