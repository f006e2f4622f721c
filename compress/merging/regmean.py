"""RegMean (Jin et al. 2023, "Dataless Knowledge Fusion by Merging Weights of Language Models",
arXiv:2212.09849).

For every linear layer the merged weight minimises ``sum_t tr((W - W_t) G_t (W - W_t)^T)``, the squared
distance of its outputs to every fine-tune's own, on the inputs that this fine-tune's prompts gave it. Only
their Gram matrices G_t are needed, not the prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from compress.errors import InputError
from compress.grams import Grams
from compress.merging.calibrated import CalibratedParameters
from compress.merging.method import Group, MergeMethod, Source
from compress.parameters import Kind


class RegMeanParameters(CalibratedParameters):
    """``alpha``: what remains of the Gram matrices off the diagonal. ``ridge``: added to their diagonals,
    relative to the mean of it; it draws what the prompts say nothing about towards the average. Grams come
    from folders made by ``twinserve gram``, ``grams``/TASK, or are gathered from ``prompts``/TASK.jsonl."""

    alpha: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.9
    ridge: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1e-3
    grams: str | None = None

    @model_validator(mode="after")
    def _one(self) -> RegMeanParameters:
        if (self.grams is None) == (self.prompts is None):
            raise ValueError(
                "give either grams, the folder with TASK/grams.json, or prompts, that with TASK.jsonl"
            )
        return self


def open_grams(source: Source, parameters: RegMeanParameters) -> dict[str, Grams]:
    """Every task's Gram matrices. Raises InputError where one is missing or of another model."""
    folder = source.statistics(parameters.grams)
    found = {}
    for task in source.tasks:
        grams = Grams(folder / task)
        if grams.facts.model_sha256 != source.sha256(task):
            raise InputError(
                f"{folder / task}: its Gram matrices are of weights {grams.facts.model_sha256[:16]}…, and "
                f"{task} has {source.sha256(task)[:16]}…; gather them anew"
            )
        found[task] = grams
    return found


def regmean(group: Group, parameters: RegMeanParameters, facts: Mapping[str, Grams]) -> Tensor:
    """Linear layers: the minimiser, in float64. All else, and layers without Gram matrices: the mean."""
    vectors = list(group.vectors.values())
    if group.parameter.kind in (Kind.LINEAR, Kind.CONV1D) and any(bool(vector.any()) for vector in vectors):
        grams = [facts[task].gram(group.parameter.module) for task in group.vectors]
        known = [gram for gram in grams if gram is not None]
        if len(known) == len(vectors):
            weighed = [conditioned(gram, parameters.alpha, parameters.ridge) for gram in known]
            maps = [group.parameter.to_map(vector) for vector in vectors]
            return group.base + group.parameter.to_map(minimiser(maps, weighed)).to(group.base)
    return group.base + torch.stack(vectors).mean(0)


def conditioned(gram: Tensor, alpha: float, ridge: float) -> Tensor:
    """``alpha G + (1 - alpha) diag(G)`` plus ``ridge`` times the mean of the diagonal."""
    diagonal = gram.diagonal()
    return alpha * gram + torch.diag((1 - alpha) * diagonal + ridge * diagonal.mean())


def minimiser(maps: Sequence[Tensor], grams: Sequence[Tensor]) -> Tensor:
    """The W [d_out, d_in] with the smallest ``objective``, float64: ``W sum G_t = sum W_t G_t``."""
    total = torch.stack(list(grams)).sum(0)
    right = torch.stack([weight.double() @ gram for weight, gram in zip(maps, grams, strict=True)]).sum(0)
    factor = torch.linalg.cholesky(total)
    # total is symmetric: W total = right is total W^T = right^T.
    solution: Tensor = torch.cholesky_solve(right.T, factor).T
    return solution


def objective(merged: Tensor, maps: Sequence[Tensor], grams: Sequence[Tensor]) -> float:
    """``sum_t tr((W - W_t) G_t (W - W_t)^T)`` of maps [d_out, d_in] and Gram matrices [d_in, d_in]."""
    return sum(
        float(((merged.double() - weight.double()) @ gram * (merged.double() - weight.double())).sum())
        for weight, gram in zip(maps, grams, strict=True)
    )


REGMEAN = MergeMethod(
    name="regmean",
    title="RegMean, least squares on each layer's inputs",
    paper="https://arxiv.org/abs/2212.09849",
    formula="W = (Σ W_t G_t)(Σ G_t)⁻¹",
    parameters=RegMeanParameters,
    merge=regmean,
    scope="tensor",
    keeps_low_rank=True,
    data="grams",
    survey=open_grams,
)
