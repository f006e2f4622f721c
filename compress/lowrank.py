"""A weight delta kept as two thin factors, and the SVD that makes one from a dense delta or from others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

# Below this share of the smaller side a randomised SVD is several times faster than a full one;
# above it the full one wins and is exact (Halko et al. 2011; the ratio was measured).
RANDOMISED_BELOW = 0.1
OVERSAMPLING = 16
POWER_ITERATIONS = 2
# Measured errors of float32 singular values are a few units of rounding of the largest one; a bound
# that grows with the matrix's sides would cut real directions of vocabulary-sized matrices.
ROUNDING = 10


@dataclass(frozen=True)
class LowRank:
    """``delta = scale * B @ A``, a linear map from d_in to d_out (the LoRA layout of PEFT).

    A: [r, d_in]; B: [d_out, r]. ``scale`` multiplies the product, so that a published adapter's
    factors can be carried unchanged.
    """

    A: Tensor
    B: Tensor
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.A.shape[0] != self.B.shape[1]:
            raise ValueError(f"factors do not meet: A {tuple(self.A.shape)}, B {tuple(self.B.shape)}")

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    @property
    def energy(self) -> float:
        """Squared Frobenius norm of the delta, in float64 and without forming the product."""
        a, b = self.A.double(), self.B.double()
        # ||B A||^2 = trace(B^T B A A^T).
        return self.scale**2 * float(((b.T @ b) * (a @ a.T)).sum())

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The map as one matrix [d_out, d_in] of ``dtype``."""
        return self.scale * (self.B.to(dtype) @ self.A.to(dtype))

    @classmethod
    def exactly(cls, matrix: Tensor) -> LowRank:
        """A dense matrix [d_out, d_in] as factors without loss: one of them is the identity."""
        d_out, d_in = matrix.shape
        if d_out <= d_in:
            return cls(A=matrix, B=torch.eye(d_out, dtype=matrix.dtype, device=matrix.device))
        return cls(A=torch.eye(d_in, dtype=matrix.dtype, device=matrix.device), B=matrix)

    @property
    def is_exact(self) -> bool:
        """Whether these are a dense matrix, as ``exactly`` has it: its own size in factors and more."""
        identity = self.B if self.B.shape[0] <= self.A.shape[1] else self.A
        rows, columns = identity.shape
        return rows == columns and torch.equal(identity, torch.eye(rows, dtype=identity.dtype))


@dataclass(frozen=True)
class Truncation:
    """A truncated delta with what it kept: energies are squared Frobenius norms."""

    factors: LowRank | None
    energy: float
    kept_energy: float

    @property
    def kept(self) -> float:
        """Share of the energy kept, in [0, 1]; 1 for a delta that is zero."""
        return min(1.0, self.kept_energy / self.energy) if self.energy > 0 else 1.0


def truncate(delta: Tensor, *, rank: int | None = None, energy: float | None = None) -> Truncation:
    """The best low-rank approximation of ``delta`` [d_out, d_in] (Eckart-Young), factors balanced.

    Exactly one of ``rank`` (an upper bound: never above the matrix's smaller side) and ``energy``
    (keep the smallest rank whose share of squared singular values reaches it) must be given.
    The singular values are split evenly: ``B = U sqrt(S)``, ``A = sqrt(S) V^T``.
    """
    _check_limits(rank, energy)
    matrix = delta.to(torch.float32)
    total = float(matrix.double().square().sum())
    if total == 0.0 or rank == 0:
        return Truncation(None, total, 0.0)
    return _cut(*svd(matrix, rank), total, rank, energy)


def truncate_factors(factors: LowRank, *, rank: int | None = None, energy: float | None = None) -> Truncation:
    """``truncate`` of ``factors.dense()`` without that product.

    With ``B = Q_B R_B`` and ``A^T = Q_A R_A``, the SVD of the small ``R_B R_A^T`` turned by ``Q_B`` and
    ``Q_A`` is that of ``B A`` (Golub and Van Loan, Matrix Computations; exact up to rounding in float64).
    """
    _check_limits(rank, energy)
    basis_b, upper_b = torch.linalg.qr(factors.scale * factors.B.double())
    basis_a, upper_a = torch.linalg.qr(factors.A.double().T)
    left, values, right = svd(upper_b @ upper_a.T)
    total = float(values.square().sum())
    if total == 0.0 or rank == 0:
        return Truncation(None, total, 0.0)
    return _cut(basis_b @ left, values, right @ basis_a.T, total, rank, energy)


def _check_limits(rank: int | None, energy: float | None) -> None:
    if (rank is None) == (energy is None):
        raise ValueError("give either rank or energy")


def _cut(
    left: Tensor, values: Tensor, right: Tensor, total: float, rank: int | None, energy: float | None
) -> Truncation:
    """The leading components that ``rank`` or ``energy`` asks for, as balanced factors in float32."""
    if energy is None:
        assert rank is not None
        keep = min(rank, len(values))
    else:
        share = torch.cumsum(values.double().square(), 0) / total
        keep = min(int((share < energy).sum()) + 1, len(values))
    # Directions at rounding level carry nothing and would only cost bytes.
    floor = float(values[0]) * ROUNDING * torch.finfo(torch.float32).eps
    keep = max(1, min(keep, int((values > floor).sum())))
    root = values[:keep].sqrt()
    factors = LowRank(A=(root[:, None] * right[:keep]).float(), B=(left[:, :keep] * root).float())
    return Truncation(factors, total, float(values[:keep].double().square().sum()))


def svd(matrix: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """``matrix`` [m, n] = U [m, k] diag(S [k]) Vh [k, n]; at least ``rank`` leading values.

    LAPACK's divide and conquer, which torch calls, fails on some real deltas; then its slower
    sibling ``gesvd`` runs in float64, and if even that fails a randomised SVD of full size.
    """
    smaller = min(matrix.shape)
    if rank is not None and rank + OVERSAMPLING < RANDOMISED_BELOW * smaller:
        return _randomised(matrix, rank + OVERSAMPLING)
    try:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        if torch.isfinite(values).all():
            return left, values, right
    except RuntimeError:  # torch.linalg.LinAlgError is one
        pass
    try:
        u, s, vh = scipy.linalg.svd(matrix.double().cpu().numpy(), full_matrices=False, lapack_driver="gesvd")
    except (np.linalg.LinAlgError, ValueError):
        return _randomised(matrix, smaller)
    arrays = (torch.from_numpy(array).to(matrix) for array in (u, s, vh))
    left, values, right = arrays
    return left, values, right


def _randomised(matrix: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Halko, Martinsson and Tropp (2011), algorithm 5.1 with power iterations, fixed seed."""
    size = min(size, *matrix.shape)
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(matrix.shape[1], size, generator=generator).to(matrix)
    basis, _ = torch.linalg.qr(matrix @ probe)
    for _ in range(POWER_ITERATIONS):
        basis, _ = torch.linalg.qr(matrix.T @ basis)
        basis, _ = torch.linalg.qr(matrix @ basis)
    small = (basis.T @ matrix).double().cpu().numpy()
    u, s, vh = scipy.linalg.svd(small, full_matrices=False, lapack_driver="gesvd")
    return (
        basis @ torch.from_numpy(u).to(matrix),
        torch.from_numpy(s).to(matrix),
        torch.from_numpy(vh).to(matrix),
    )
