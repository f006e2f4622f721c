"""Correlations of two models' units, from running sums: no activation is kept."""

from __future__ import annotations

import torch
from torch import Tensor

# A variance this far below the mean square is rounding of the activations themselves.
CONSTANT = 1e-12


class CrossMoments:
    """Sums in float64 over tokens of two models' activations, paired by token."""

    def __init__(self, units: int) -> None:
        zeros = torch.zeros(units, dtype=torch.float64)
        self.tokens = 0
        self._sums = [zeros.clone(), zeros.clone()]
        self._squares = [zeros.clone(), zeros.clone()]
        self._products = torch.zeros(units, units, dtype=torch.float64)

    def add(self, reference: Tensor, model: Tensor) -> None:
        """Count activations [tokens, units] of both models at the same tokens."""
        both = [reference.double(), model.double()]
        for k, x in enumerate(both):
            self._sums[k] += x.sum(0)
            self._squares[k] += x.square().sum(0)
        self._products.addmm_(both[0].T, both[1])
        self.tokens += len(reference)

    def correlation(self) -> Tensor:
        """Signed correlation [units of the reference, units of the model] in float64.

        Zero for a unit that never changes.
        """
        means = [x / self.tokens for x in self._sums]
        mean_squares = [x / self.tokens for x in self._squares]
        variances = [s - m.square() for s, m in zip(mean_squares, means, strict=True)]
        scales = [
            torch.where(v > CONSTANT * s, v.clamp(min=0).rsqrt(), torch.zeros_like(v))
            for v, s in zip(variances, mean_squares, strict=True)
        ]
        covariance = self._products / self.tokens - torch.outer(means[0], means[1])
        return covariance * torch.outer(scales[0], scales[1])


def moment_bytes(units: int) -> int:
    """Memory of one ``CrossMoments``, and of its correlation beside it."""
    return 2 * 8 * units * units
