"""Order statistics against sorting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.merging.selection import SAMPLE, kth_magnitude, nth_largest

numbers = st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=60)


@given(numbers, st.data())
def test_kth_magnitude_is_that_of_a_sorted_list(values, data):
    k = data.draw(st.integers(1, len(values)))
    parts = [torch.tensor(values[:7], dtype=torch.float32), torch.tensor(values[7:], dtype=torch.float32)]
    assert kth_magnitude(lambda: parts, k) == sorted(abs(v) for v in values)[k - 1]


def test_kth_magnitude_over_all_exponents():
    generator = np.random.default_rng(0)
    values = (generator.standard_normal(5000) * 10.0 ** generator.integers(-38, 38, 5000)).astype(np.float32)
    ordered = np.sort(np.abs(values))
    for k in (1, 2, 1234, 4999, 5000):
        assert kth_magnitude(lambda: [torch.from_numpy(values)], k) == ordered[k - 1]


@pytest.mark.parametrize("k", [0, 4])
def test_there_must_be_a_kth(k):
    with pytest.raises(ValueError, match="no"):
        kth_magnitude(lambda: [torch.ones(3)], k)


def pieces(values, width=7):
    """The numbers in consecutive stretches."""
    whole = torch.tensor(np.array(values, dtype=np.float32))
    return lambda: [(start, whole[start : start + width]) for start in range(0, len(whole), width)]


@given(numbers, st.data())
def test_nth_largest_is_where_a_stable_sort_cuts(values, data):
    n = data.draw(st.integers(1, len(values)))
    magnitudes = np.abs(np.array(values, dtype=np.float32))
    first = np.argsort(-magnitudes, kind="stable")[:n]
    value, last = nth_largest(pieces(values), len(values), n)
    kept = (magnitudes > value) | ((magnitudes == value) & (np.arange(len(values)) <= last))
    assert set(np.flatnonzero(kept)) == set(first)


@pytest.mark.parametrize("order", ["shuffled", "ascending", "periodic"])
def test_nth_largest_of_more_than_the_sample(order):
    """Ascending and periodic values mislead a sample; the answer is exact all the same."""
    magnitudes = np.random.default_rng(0).random(4 * SAMPLE, dtype=np.float32)
    if order == "ascending":
        magnitudes.sort()
    if order == "periodic":
        magnitudes[::4] = 0
    for n in (1, 1000, 2 * SAMPLE, 4 * SAMPLE):
        assert nth_largest(pieces(magnitudes, 10_000), magnitudes.size, n)[0] == np.sort(magnitudes)[-n]
