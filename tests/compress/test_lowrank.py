"""Truncation against numpy in float64, over shapes and ranks; failures of the SVD; zero deltas."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress import lowrank
from compress.lowrank import LowRank, truncate

sizes = st.integers(1, 24)


def random_matrix(rows: int, columns: int, seed: int, decay: float = 0.0) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    k = min(rows, columns)
    left, _ = np.linalg.qr(generator.standard_normal((rows, k)))
    right, _ = np.linalg.qr(generator.standard_normal((columns, k)))
    return torch.from_numpy(left @ np.diag(np.arange(1, k + 1) ** -decay) @ right.T).float()


@settings(deadline=None, max_examples=60)
@given(rows=sizes, columns=sizes, rank=st.integers(1, 30), seed=st.integers(0, 99))
def test_truncation_is_the_best_of_its_rank(rows, columns, rank, seed):
    matrix = random_matrix(rows, columns, seed, decay=0.5)
    part = truncate(matrix, rank=rank)
    assert part.factors is not None
    assert part.factors.rank == min(rank, rows, columns)
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    best = np.sqrt((values[rank:] ** 2).sum())
    error = np.linalg.norm(matrix.double().numpy() - part.factors.dense(torch.float64).numpy())
    assert error <= best + 1e-5 * values[0]
    assert part.kept == pytest.approx((values[:rank] ** 2).sum() / (values**2).sum(), abs=1e-5)
    balanced = part.factors.A.norm(dim=1) / part.factors.B.norm(dim=0)
    torch.testing.assert_close(balanced, torch.ones_like(balanced), rtol=1e-3, atol=1e-3)


@settings(deadline=None, max_examples=40)
@given(rows=sizes, columns=sizes, share=st.floats(0.05, 1.0), seed=st.integers(0, 99))
def test_kept_energy_is_reached_by_the_smallest_rank(rows, columns, share, seed):
    matrix = random_matrix(rows, columns, seed, decay=0.7)
    part = truncate(matrix, energy=share)
    assert part.factors is not None
    assert part.kept >= share - 1e-5
    if part.factors.rank > 1:
        assert truncate(matrix, rank=part.factors.rank - 1).kept < share + 1e-5


def test_zero_delta_and_rank_zero_keep_nothing():
    assert truncate(torch.zeros(5, 7), rank=3).factors is None
    assert truncate(torch.zeros(5, 7), rank=3).kept == 1.0
    nothing = truncate(torch.ones(5, 7), rank=0)
    assert nothing.factors is None and nothing.kept == 0.0


def test_directions_at_rounding_level_are_not_stored():
    matrix = random_matrix(20, 3, 1) @ random_matrix(3, 20, 2)
    part = truncate(matrix, rank=20)
    assert part.factors is not None and part.factors.rank == 3


def test_randomised_svd_is_used_far_below_full_rank_and_is_near_the_best(monkeypatch):
    used = []
    original = lowrank._randomised
    monkeypatch.setattr(lowrank, "_randomised", lambda m, k: used.append(k) or original(m, k))
    matrix = random_matrix(300, 320, 3, decay=0.35)
    part = truncate(matrix, rank=8)
    assert used == [8 + lowrank.OVERSAMPLING]
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    best = np.sqrt((values[8:] ** 2).sum())
    assert part.factors is not None
    error = np.linalg.norm(matrix.double().numpy() - part.factors.dense(torch.float64).numpy())
    assert best <= error + 1e-6 <= 1.01 * best


@pytest.mark.parametrize("gesvd_fails", [False, True])
def test_svd_that_fails_falls_back_to_gesvd_in_float64_then_to_the_randomised_one(monkeypatch, gesvd_fails):
    original, tried = scipy.linalg.svd, []

    def fail(*_, **__):
        raise torch.linalg.LinAlgError("failed to converge")

    def gesvd(array, **options):
        tried.append((options["lapack_driver"], array.dtype))
        if gesvd_fails and len(tried) == 1:
            raise np.linalg.LinAlgError("failed to converge")
        return original(array, **options)

    monkeypatch.setattr(torch.linalg, "svd", fail)
    monkeypatch.setattr(scipy.linalg, "svd", gesvd)
    matrix = random_matrix(12, 9, 4)
    part = truncate(matrix, rank=9)
    assert part.factors is not None
    torch.testing.assert_close(part.factors.dense(), matrix, rtol=0, atol=1e-5)
    # The randomised one takes the small matrix's SVD by the same driver.
    assert tried == [("gesvd", np.float64)] * (2 if gesvd_fails else 1)


def test_real_directions_of_a_tall_matrix_are_not_taken_for_rounding():
    matrix = random_matrix(60_000, 12, 5)
    matrix = matrix @ torch.diag(torch.tensor([1.0] + [0.004] * 11))
    assert truncate(matrix, rank=12).factors.rank == 12


@settings(deadline=None, max_examples=30)
@given(rows=sizes, columns=sizes, seed=st.integers(0, 99))
def test_a_dense_matrix_becomes_factors_without_loss(rows, columns, seed):
    matrix = random_matrix(rows, columns, seed)
    exact = LowRank.exactly(matrix)
    assert torch.equal(exact.dense(), matrix)
    assert exact.rank == min(rows, columns)
