"""DARE (Yu et al. 2024, arXiv:2311.03099): drop most of each task vector at random, rescale the rest."""

from __future__ import annotations

import hashlib
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from compress.merging.method import Density, Group, MergeMethod, Parameters, Scaling, add_scaled, per_task


class DareParameters(Parameters):
    """``density``: share of each task vector that stays (1 - p in the paper). ``scaling``: one lambda for all
    tasks, or one per task. ``seed``: of the random choice."""

    density: Density | dict[str, Density] = 0.2
    scaling: Scaling | dict[str, Scaling] = 0.3
    seed: Annotated[int, Field(ge=0, strict=True)] = 0


def dare(group: Group, parameters: DareParameters, facts: None) -> Tensor:
    """``W_0 + sum lambda_t m_t tau_t / density_t`` with independent Bernoulli masks m_t: each task vector
    keeps its expectation. The mask is a function of seed, task and parameter alone."""
    tasks = list(group.vectors)
    densities = per_task("density", parameters.density, tasks)
    scalings = per_task("scaling", parameters.scaling, tasks)
    return add_scaled(
        group.base,
        (
            (
                scalings[task] / densities[task],
                vector * mask(parameters.seed, task, group.parameter.name, vector.shape, densities[task]),
            )
            for task, vector in group.vectors.items()
        ),
    )


def mask(seed: int, task: str, name: str, shape: torch.Size, density: float) -> Tensor:
    """Which elements stay: booleans of ``shape``, each True with probability ``density``."""
    digest = hashlib.sha256(f"{seed} {task} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
    return torch.rand(shape, generator=generator) < density


DARE = MergeMethod(
    name="dare",
    title="DARE with task arithmetic",
    paper="https://arxiv.org/abs/2311.03099",
    formula="W = W_0 + Σ λ_t m_t ⊙ τ_t / p_t",
    parameters=DareParameters,
    merge=dare,
    scope="tensor",
)
