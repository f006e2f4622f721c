"""Exact order statistics of many magnitudes, without sorting them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from torch import Tensor

HALF = 16
SAMPLE = 1 << 16
# Bit patterns that are counted one by one.
WIDEST = 1 << 20
Stretches = Callable[[], Iterable[tuple[int, Tensor]]]


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
    return _number(bin_ << HALF | int(np.searchsorted(np.cumsum(lower), rest)))


def nth_largest(stretches: Stretches, size: int, n: int) -> tuple[float, int]:
    """The n-th largest (from 1) absolute value of ``size`` float32 numbers, and the position of the last of
    those equal to it that a stable sort would put among the first n.

    stretches: gives (position of the first element, stretch) in order, and is passed a few times: a
    sample brackets the value; what lies in the bracket is counted by its bits; and where only some of equal
    numbers are among the first n, their positions are counted. Where the sample misleads, the value is looked
    for among all bit patterns. Raises ValueError where there are fewer than n numbers.
    """
    if not 1 <= n <= size:
        raise ValueError(f"there is no {n}-th of {size} numbers")
    low, high = _bracket(stretches, size, n)
    above, counts = _inside(stretches, low, high)
    if not above < n <= above + counts.sum():
        low = high = _pattern(kth_magnitude(lambda: (part for _, part in stretches()), size - n + 1))
        above, counts = _inside(stretches, low, high)
    # From the largest down.
    until = above + np.cumsum(counts[::-1])
    place = int(np.searchsorted(until, n))
    pattern, equal = high - place, int(counts[::-1][place])
    left = n - int(until[place] - equal)
    last = size - 1 if left == equal else _nth_equal(stretches, pattern, left)
    return _number(pattern), last


def _bracket(stretches: Stretches, size: int, n: int) -> tuple[int, int]:
    """Two bit patterns that the n-th largest most likely lies between."""
    step = max(1, size // SAMPLE)
    # Copies: a view would keep its whole stretch in memory.
    picked = [_bits(part)[-start % step :: step].copy() for start, part in stretches()]
    sample = np.sort(np.concatenate(picked))
    place = sample.size * (size - n) // size
    # Four standard deviations of a sampled quantile.
    margin = 0 if step == 1 else int(4 * np.sqrt(sample.size) / 2) + 1
    low = int(sample[max(0, place - margin)])
    high = int(sample[min(sample.size - 1, place + margin)])
    # A bracket too wide to count in, as where the value is near zero, goes the way of one that misses.
    return (low, high) if high - low < WIDEST else (high, high)


def _inside(stretches: Stretches, low: int, high: int) -> tuple[int, np.ndarray]:
    """How many magnitudes have bits above ``high``, and how many have each pattern from ``low`` to it."""
    above, counts = 0, np.zeros(high - low + 1, dtype=np.int64)
    for _, part in stretches():
        bits = _bits(part)
        above += int(np.count_nonzero(bits > high))
        found = bits[(bits >= low) & (bits <= high)]
        found -= low
        np.add.at(counts, found, 1)
    return above, counts


def _nth_equal(stretches: Stretches, pattern: int, n: int) -> int:
    """The position of the n-th (from 1) magnitude with these bits."""
    for start, part in stretches():
        places = np.flatnonzero(_bits(part) == pattern)
        if n <= places.size:
            return start + int(places[n - 1])
        n -= places.size
    raise ValueError("the numbers changed while they were read")


def _bits(part: Tensor) -> np.ndarray:
    """Magnitudes as the integers that their bits are, which are ordered as they are."""
    bits: np.ndarray = part.abs().reshape(-1).numpy().view(np.int32)
    return bits


def _pattern(value: float) -> int:
    return int(np.float32(value).view(np.int32))


def _number(pattern: int) -> float:
    return float(np.int32(pattern).view(np.float32))
