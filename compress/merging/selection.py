"""Exact order statistics of many magnitudes, without sorting them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from torch import Tensor

HALF = 16
SAMPLE = 1 << 16
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
    found = np.array([bin_ << HALF | int(np.searchsorted(np.cumsum(lower), rest))], dtype=np.uint32)
    return float(found.view(np.float32)[0])


def nth_largest(stretches: Stretches, size: int, n: int) -> tuple[float, int]:
    """The n-th largest (from 1) absolute value of ``size`` float32 numbers, and the position of the last of
    those equal to it that a stable sort would put among the first n.

    stretches: gives (position of the first element, stretch) in order, and is passed two times. A sample of
    the first pass brackets the value; the second counts what is above the bracket and takes out what is in
    it. Where the bracket misses, the value is looked for by its bits. Raises ValueError where there are fewer
    than n numbers.
    """
    if not 1 <= n <= size:
        raise ValueError(f"there is no {n}-th of {size} numbers")
    low, high = _bracket(stretches, size, n)
    above, values, places = _inside(stretches, low, high)
    if not above < n <= above + values.size:
        low = high = kth_magnitude(lambda: (part for _, part in stretches()), size - n + 1)
        above, values, places = _inside(stretches, low, high)
    place = values.size - (n - above)
    value = np.partition(values, place)[place]
    above += int(np.count_nonzero(values > value))
    equal = places[values == value]
    return float(value), int(equal[n - above - 1])


def _bracket(stretches: Stretches, size: int, n: int) -> tuple[float, float]:
    """Two values that the n-th largest most likely lies between."""
    step = max(1, size // SAMPLE)
    picked = [_magnitudes(part)[-start % step :: step] for start, part in stretches()]
    sample = np.sort(np.concatenate(picked))
    place = sample.size * (1 - n / size)
    # Four standard deviations of a sampled quantile.
    margin = 4 * np.sqrt(sample.size) / 2 + 1
    low = sample[max(0, int(place - margin))]
    high = sample[min(sample.size - 1, int(place + margin))]
    return float(low), float(high)


def _inside(stretches: Stretches, low: float, high: float) -> tuple[int, np.ndarray, np.ndarray]:
    """How many magnitudes are above ``high``; those from ``low`` to ``high``, and their positions."""
    above, values, places = 0, [], []
    for start, part in stretches():
        magnitudes = _magnitudes(part)
        above += int(np.count_nonzero(magnitudes > high))
        found = np.flatnonzero((magnitudes >= low) & (magnitudes <= high))
        values.append(magnitudes[found])
        places.append(start + found)
    return above, np.concatenate(values), np.concatenate(places)


def _magnitudes(part: Tensor) -> np.ndarray:
    magnitudes: np.ndarray = part.abs().reshape(-1).numpy()
    return magnitudes


def _bits(stretch: Tensor) -> np.ndarray:
    bits: np.ndarray = _magnitudes(stretch).view(np.int32)
    return bits
