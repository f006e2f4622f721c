"""TSV-Merge (Gargiulo et al. 2025, "Task Singular Vectors", arXiv:2412.00081)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from compress.lowrank import svd
from compress.merging.method import Group, MergeMethod, Parameters, Scaling


class TsvParameters(Parameters):
    """``share``: of each matrix's singular vectors, how many a task keeps; by default one over the number of
    tasks, as in the paper. ``scaling``: lambda of the merged vector."""

    share: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    scaling: Scaling = 1.0


def tsv(group: Group, parameters: TsvParameters, facts: None) -> Tensor:
    """Matrices: the leading singular vectors of all tasks side by side, both sides made orthonormal by the
    nearest orthogonal matrix (Procrustes), so that tasks no longer overlap. Norms and biases: the mean."""
    base, parameter = group.base, group.parameter
    vectors = [vector for vector in group.vectors.values() if vector.any()]
    if not vectors:
        return base.clone()
    if not parameter.is_matrix:
        return base + parameters.scaling * sum(vectors) / len(group.vectors)
    share = parameters.share or 1 / len(group.vectors)
    keep = max(1, int(share * min(base.shape)))
    lefts, values, rights = [], [], []
    for vector in vectors:
        left, value, right = svd(vector, keep)
        lefts.append(left[:, :keep])
        values.append(value[:keep])
        rights.append(right[:keep])
    left = nearest_orthonormal(torch.cat(lefts, 1))
    right = nearest_orthonormal(torch.cat(rights, 0).T).T
    return base + parameters.scaling * (left * torch.cat(values)) @ right


def nearest_orthonormal(columns: Tensor) -> Tensor:
    """The matrix with orthonormal columns that is nearest to ``columns`` [n, k] in Frobenius norm; with
    more columns than rows, orthonormal rows."""
    left, _, right = svd(columns)
    return left @ right


TSV = MergeMethod(
    name="tsv",
    title="TSV-Merge, task singular vectors",
    paper="https://arxiv.org/abs/2412.00081",
    formula="W = W_0 + λ U⊥ Σ V⊥ᵀ",
    parameters=TsvParameters,
    merge=tsv,
    scope="tensor",
    keeps_low_rank=True,
)
