"""A weight delta while it is compressed: one dense matrix, or an adapter's factors, never multiplied out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from compress.lowrank import LowRank, Truncation, truncate, truncate_factors


class Delta(Protocol):
    """The delta of one matrix as a linear map [d_out, d_in]."""

    def truncated(self, *, rank: int | None, energy: float | None) -> Truncation:
        """Its leading singular components; see ``lowrank.truncate``."""

    def after(self, left: Tensor) -> Tensor:
        """``left`` [k, d_out], float64, times the delta: [k, d_in], float64."""

    def distance(self, kept: LowRank) -> float:
        """Squared Frobenius norm of what ``kept`` lacks of the delta."""


@dataclass(frozen=True)
class DenseDelta:
    """Of a full fine-tune. matrix: [d_out, d_in]."""

    matrix: Tensor

    def truncated(self, *, rank: int | None, energy: float | None) -> Truncation:
        return truncate(self.matrix, rank=rank, energy=energy)

    def after(self, left: Tensor) -> Tensor:
        return left @ self.matrix.double()

    def distance(self, kept: LowRank) -> float:
        return float((self.matrix - kept.dense()).double().square().sum())


@dataclass(frozen=True)
class ThinDelta:
    """Of an adapter: ``scale * B @ A``."""

    factors: LowRank

    def truncated(self, *, rank: int | None, energy: float | None) -> Truncation:
        return truncate_factors(self.factors, rank=rank, energy=energy)

    def after(self, left: Tensor) -> Tensor:
        return self.factors.scale * ((left @ self.factors.B.double()) @ self.factors.A.double())

    def distance(self, kept: LowRank) -> float:
        # The difference of two products is one product, of the factors side by side.
        a = torch.cat((self.factors.A.double(), kept.A.double()))
        b = torch.cat((self.factors.scale * self.factors.B.double(), -kept.scale * kept.B.double()), dim=1)
        return max(0.0, LowRank(a, b).energy)
