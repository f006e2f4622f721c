"""Codes: what they lose, what they cost, and that they come back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.quantize import BITS, DISTORTION, dequantise, quantise


@given(st.integers(1, 5), st.integers(1, 40), st.sampled_from(BITS), st.integers(0, 99), st.floats(1e-3, 1e3))
@settings(max_examples=80, deadline=None)
def test_codes_come_back(rows, width, bits, seed, scale):
    vectors = scale * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    codes = quantise(vectors, bits)
    back = dequantise(codes)
    assert back.shape == vectors.shape and codes.codes.shape == (rows, -(-width * bits // 8))
    assert (back - vectors).norm() <= vectors.norm() * (0.02 if bits == 8 else 1.0)
    # Every entry is one of the levels, times the row's scale.
    for row, scale_ in zip(back, codes.scales, strict=True):
        assert len((row / max(float(scale_), 1e-30)).unique()) <= 2**bits


@pytest.mark.parametrize("bits", BITS)
def test_normal_entries_lose_what_is_said(bits):
    vectors = torch.randn(64, 1000, generator=torch.Generator().manual_seed(0))
    lost = float((dequantise(quantise(vectors, bits)) - vectors).square().sum() / vectors.square().sum())
    assert 0.8 * DISTORTION[bits] < lost < 1.25 * DISTORTION[bits]


@pytest.mark.parametrize("bits", [4, 2])
def test_no_even_grid_is_better(bits):
    """The levels against the best evenly spaced ones of as many bits."""
    vectors = torch.randn(8, 4000, generator=torch.Generator().manual_seed(1))
    ours = float((dequantise(quantise(vectors, bits)) - vectors).square().mean())
    steps = torch.linspace(0.1, 2, 60)
    half = 2 ** (bits - 1)
    even = min(
        float((((vectors / s).floor().clamp(-half, half - 1) + 0.5) * s - vectors).square().mean())
        for s in steps
    )
    assert ours < even


@pytest.mark.parametrize("bits", BITS)
def test_zeros_stay_zeros_nearly(bits):
    back = dequantise(quantise(torch.zeros(2, 9), bits))
    assert torch.isfinite(back).all() and back.abs().max() < 1e-30


def test_other_bits():
    with pytest.raises(ValueError, match="3 bits are not supported"):
        quantise(torch.ones(1, 4), 3)
