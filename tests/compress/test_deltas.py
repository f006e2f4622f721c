"""Deltas of adapters taken apart without being multiplied out, against dense SVDs by numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.codes import quantise_factors
from compress.deltas import DenseDelta, ThinDelta
from compress.lowrank import LowRank, truncate, truncate_factors

sides = st.integers(1, 24)
# Adapters may have more ranks than the matrix.
ranks = st.integers(1, 30)
scales = st.sampled_from([-0.5, 1e-3, 0.25, 1.0, 2.0, 300.0])
seeds = st.integers(0, 99)


def adapter(rows: int, columns: int, rank: int, scale: float, seed: int, dtype=torch.float32) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, columns, generator=generator)
    b = torch.randn(rows, rank, generator=generator) * torch.arange(1, rank + 1) ** -0.7
    return LowRank(a.to(dtype), b.to(dtype), scale)


def dense(factors: LowRank) -> np.ndarray:
    """The map in float64, of the stored numbers."""
    return factors.scale * (factors.B.double().numpy() @ factors.A.double().numpy())


@settings(deadline=None, max_examples=80)
@given(
    sides, sides, ranks, st.integers(1, 30), scales, seeds, st.sampled_from([torch.float32, torch.float16])
)
def test_a_cut_to_a_rank_is_the_best_there_is(rows, columns, rank, kept, scale, seed, dtype):
    factors = adapter(rows, columns, rank, scale, seed, dtype)
    part = truncate_factors(factors, rank=kept)
    values = np.linalg.svd(dense(factors), compute_uv=False)
    assert part.factors is not None and part.factors.A.dtype == torch.float32
    assert part.factors.rank <= min(kept, rank, rows, columns) and part.factors.scale == 1.0
    best = np.sqrt((values[kept:] ** 2).sum())
    error = np.linalg.norm(dense(factors) - dense(part.factors))
    assert best - 1e-6 * values[0] <= error <= best + 1e-5 * values[0]
    assert part.energy == pytest.approx((values**2).sum(), rel=1e-9)
    assert part.kept_energy == pytest.approx((values[:kept] ** 2).sum(), rel=1e-9)
    own = part.factors.A.norm(dim=1).square().numpy()
    np.testing.assert_allclose(own, values[: len(own)], rtol=0, atol=1e-5 * values[0])
    np.testing.assert_allclose(part.factors.B.norm(dim=0).square().numpy(), own, rtol=1e-4)


@settings(deadline=None, max_examples=40)
@given(sides, sides, ranks, st.floats(0.05, 1.0), scales, seeds)
def test_a_kept_energy_is_reached_by_the_rank_of_a_dense_delta(rows, columns, rank, share, scale, seed):
    factors = adapter(rows, columns, rank, scale, seed)
    part = truncate_factors(factors, energy=share)
    values = np.linalg.svd(dense(factors), compute_uv=False) ** 2
    assert part.factors is not None and part.kept >= share - 1e-9
    assert values[: part.factors.rank - 1].sum() < share * values.sum() + 1e-9 * values.sum()


def test_the_product_is_never_formed():
    """As a dense matrix this one has 360 GB."""
    factors = adapter(300_000, 300_000, 2, 1.0, 0)
    part = truncate_factors(factors, rank=2)
    assert part.factors is not None and part.kept == pytest.approx(1)
    delta = ThinDelta(factors)
    assert delta.distance(part.factors) < 1e-9 * part.energy
    assert delta.after(torch.ones(1, 300_000, dtype=torch.float64)).shape == (1, 300_000)


def test_nothing_is_kept_of_a_delta_of_zero_or_at_rank_zero():
    untrained = LowRank(torch.randn(4, 9), torch.zeros(7, 4), 2.0)
    part = truncate_factors(untrained, rank=4)
    assert part.factors is None and part.kept == 1.0
    cut = truncate_factors(adapter(7, 9, 4, 1.0, 0), rank=0)
    assert cut.factors is None and cut.kept == 0.0 and cut.energy > 0
    with pytest.raises(ValueError, match="either rank or energy"):
        truncate_factors(untrained)


@settings(deadline=None, max_examples=40)
@given(sides, sides, ranks, scales, seeds)
def test_both_kinds_of_delta_measure_alike(rows, columns, rank, scale, seed):
    factors = adapter(rows, columns, rank, scale, seed)
    other = adapter(rows, columns, 2, 0.5, seed + 1)
    left = np.random.default_rng(seed).standard_normal((3, rows))
    energy = (dense(factors) ** 2).sum() + (dense(other) ** 2).sum()
    for delta in (ThinDelta(factors), DenseDelta(torch.from_numpy(dense(factors)).float())):
        after = delta.after(torch.from_numpy(left)).numpy()
        np.testing.assert_allclose(after, left @ dense(factors), rtol=0, atol=1e-5 * np.sqrt(energy))
        expected = ((dense(factors) - dense(other)) ** 2).sum()
        assert delta.distance(other) == pytest.approx(expected, abs=1e-5 * energy)


@settings(deadline=None, max_examples=60)
@given(st.integers(4, 40), st.integers(4, 40), st.integers(1, 8), scales, seeds)
def test_eight_bits_at_full_rank_lose_no_more_than_their_steps(rows, columns, rank, scale, seed):
    """|W - B'A'| <= |B - B'| |A| + |B'| |A'' - A'|, with A'' the least-squares A: each entry is off by half a
    step of its vector, 1/254 of the largest, and by the half-precision rounding of the step."""
    factors = adapter(rows, columns, rank, scale, seed)
    part = truncate_factors(factors, rank=rank)
    assert part.factors is not None
    bits = np.full(part.factors.rank, 8)
    kept = quantise_factors(part.factors, bits, ThinDelta(factors)).dequantised()
    a, b = part.factors.A.double().numpy(), part.factors.B.double().numpy()
    off = 1 / 254 + 2**-11
    near_b = kept.B.double().numpy()
    refitted = np.linalg.lstsq(near_b, dense(factors), rcond=None)[0]
    of_b = off * np.sqrt((rows * np.abs(b).max(0) ** 2).sum()) * np.linalg.norm(a, 2)
    of_a = off * np.sqrt((columns * np.abs(refitted).max(1) ** 2).sum()) * np.linalg.norm(near_b, 2)
    error = np.linalg.norm(dense(factors) - dense(kept))
    assert error <= of_b + of_a + 1e-5 * np.linalg.norm(dense(factors))
    assert error**2 <= 1e-3 * part.energy


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_codes_of_thin_and_dense_deltas_are_the_same(bits):
    """Nothing is lost by not multiplying out."""
    factors = adapter(48, 40, 6, 2.0, 3)
    part = truncate(torch.from_numpy(dense(factors)).float(), rank=6)
    assert part.factors is not None
    chosen = np.full(6, bits)
    thin = quantise_factors(part.factors, chosen, ThinDelta(factors)).dequantised()
    full = quantise_factors(
        part.factors, chosen, DenseDelta(torch.from_numpy(dense(factors)).float())
    ).dequantised()
    assert torch.equal(thin.B, full.B)
    # A code of A may fall on the other side of a cut by rounding.
    assert float((thin.A - full.A).abs().mean()) < 1e-3 * float(full.A.abs().mean())
