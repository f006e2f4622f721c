"""The k-th smallest magnitude of more numbers than fit in memory, exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from torch import Tensor

HALF = 16


def kth_magnitude(stretches: Callable[[], Iterable[Tensor]], k: int) -> float:
    """The k-th smallest (from 1) of the absolute values in float32 tensors that are passed twice.

    Magnitudes of floats are ordered as their bit patterns read as integers are: the first pass counts the
    upper half of the bits, the second the lower half of those in the bin that holds the k-th. Raises
    ValueError where there are fewer than k numbers.
    """
    upper = np.zeros(1 << (31 - HALF + 1), dtype=np.int64)
    for stretch in stretches():
        upper += np.bincount(_bits(stretch) >> HALF, minlength=len(upper))
    if not 1 <= k <= upper.sum():
        raise ValueError(f"there is no {k}-th of {upper.sum()} numbers")
    bin_ = int(np.searchsorted(np.cumsum(upper), k))
    rest = k - int(upper[:bin_].sum())
    lower = np.zeros(1 << HALF, dtype=np.int64)
    for stretch in stretches():
        bits = _bits(stretch)
        lower += np.bincount(bits[bits >> HALF == bin_] & (1 << HALF) - 1, minlength=len(lower))
    found = np.array([bin_ << HALF | int(np.searchsorted(np.cumsum(lower), rest))], dtype=np.uint32)
    return float(found.view(np.float32)[0])


def _bits(stretch: Tensor) -> np.ndarray:
    magnitudes: np.ndarray = stretch.abs().reshape(-1).numpy().view(np.int32)
    return magnitudes
