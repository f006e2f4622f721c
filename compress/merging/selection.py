"""Exact order statistics of many magnitudes, without sorting them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from torch import Tensor

HALF = 16
SAMPLE = 1 << 16


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


def nth_largest(magnitudes: np.ndarray, n: int) -> tuple[float, int]:
    """The n-th largest (from 1) of ``magnitudes`` [size], and the position of the last of those equal to it
    that a stable sort would put among the first n.

    A sample brackets the value; one pass then counts what is above the bracket and takes out what is in it.
    Where the bracket misses, all is taken. Raises ValueError where there are fewer than n numbers.
    """
    if not 1 <= n <= magnitudes.size:
        raise ValueError(f"there is no {n}-th of {magnitudes.size} numbers")
    low, high = _bracket(magnitudes, n)
    above = int(np.count_nonzero(magnitudes > high))
    inside = (magnitudes >= low) & (magnitudes <= high)
    if not above < n <= above + int(np.count_nonzero(inside)):
        above, inside = 0, np.ones_like(inside)
    candidates = magnitudes[inside]
    place = candidates.size - (n - above)
    value = np.partition(candidates, place)[place]
    above += int(np.count_nonzero(candidates > value))
    equal = np.flatnonzero(magnitudes == value)
    return float(value), int(equal[n - above - 1])


def _bracket(magnitudes: np.ndarray, n: int) -> tuple[float, float]:
    """Two values that the n-th largest most likely lies between."""
    step = max(1, magnitudes.size // SAMPLE)
    sample = np.sort(magnitudes[::step])
    place = sample.size * (1 - n / magnitudes.size)
    # Four standard deviations of a sampled quantile.
    margin = 4 * np.sqrt(sample.size) / 2 + 1
    low = sample[max(0, int(place - margin))]
    high = sample[min(sample.size - 1, int(place + margin))]
    return float(low), float(high)


def _bits(stretch: Tensor) -> np.ndarray:
    magnitudes: np.ndarray = stretch.abs().reshape(-1).numpy().view(np.int32)
    return magnitudes
