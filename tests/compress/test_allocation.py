"""Budgets: never exceeded, spent where they save most, against trying everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.allocation import Spectrum, allocate, component_bits, lost_share
from compress.quantize import BITS, quantise


def spectra(seed: int, count: int, ranks: int = 6) -> dict[str, Spectrum]:
    generator = np.random.default_rng(seed)
    made = {}
    for i in range(count):
        values = np.sort(generator.random(ranks))[::-1] * generator.choice([0.1, 1, 5])
        made[f"m{i}"] = Spectrum(
            values, (int(generator.integers(4, 50)), int(generator.integers(4, 50))), 1.0
        )
    energy = sum(float(np.square(s.values).sum()) for s in made.values())
    return {name: Spectrum(s.values, s.sides, energy) for name, s in made.items()}


def spent(given, bits):
    return sum(component_bits(given[n].sides, int(b)) for n, row in bits.items() for b in row) / 8


def lost(given, bits):
    return sum(
        float(v**2) / given[n].energy * lost_share(int(b))
        for n, row in bits.items()
        for v, b in zip(given[n].values, row, strict=True)
    )


@given(
    st.integers(0, 500), st.integers(0, 4), st.integers(0, 3000), st.sampled_from([(16,), (8,), (8, 4, 2)])
)
@settings(max_examples=80, deadline=None)
def test_budget_order_and_loss(seed, count, budget, choices):
    given_ = spectra(seed, count)
    bits, expected = allocate(given_, budget, choices)
    assert spent(given_, bits) <= budget
    assert lost(given_, bits) == pytest.approx(expected, abs=1e-9)
    for row in bits.values():
        assert (np.diff(row) <= 0).all() and set(row) <= {0, *choices}
    more, less = allocate(given_, budget + 500, choices)
    assert less <= expected + 1e-12 and spent(given_, more) >= spent(given_, bits)


@pytest.mark.parametrize("seed", range(6))
def test_nothing_of_the_same_cost_loses_less(seed):
    given_ = {name: Spectrum(s.values[:3], s.sides, s.energy) for name, s in spectra(seed, 2, 3).items()}
    for budget in (40, 90, 160):
        bits, expected = allocate(given_, budget, (8, 4, 2))
        cost = spent(given_, bits)
        names = list(given_)
        for trial in itertools.product((0, 2, 4, 8), repeat=6):
            other = dict(zip(names, (np.array(trial[:3]), np.array(trial[3:])), strict=True))
            if spent(given_, other) <= cost:
                assert lost(given_, other) >= expected - 1e-9


def test_mixed_bits_never_lose_more_than_one_kind():
    given_ = spectra(3, 4)
    for budget in (50, 200, 800, 2000):
        mixed = allocate(given_, budget, (8, 4, 2))[1]
        assert mixed <= allocate(given_, budget, (8,))[1] + 1e-3


def test_experts_weigh_alike_whatever_their_norm():
    loud, quiet = np.array([100.0, 90.0, 80.0]), np.array([1.0, 0.9, 0.8])
    given_ = {
        "loud": Spectrum(loud, (10, 10), float(np.square(loud).sum())),
        "quiet": Spectrum(quiet, (10, 10), float(np.square(quiet).sum())),
    }
    bits, _ = allocate(given_, 160, (16,))
    assert (bits["loud"] > 0).sum() == (bits["quiet"] > 0).sum() == 2


def test_components_of_no_energy_get_no_bits():
    bits, left = allocate({"m": Spectrum(np.array([1.0, 0.0]), (4, 4), 1.0)}, 10_000, (8, 4, 2))
    assert bits["m"].tolist() == [8, 0] and left < 1e-3


@given(st.integers(1, 99), st.integers(1, 99), st.sampled_from(BITS))
@settings(max_examples=60, deadline=None)
def test_codes_take_no_more_than_they_are_charged(d_out, d_in, bits):
    stored = sum(quantise(torch.ones(1, side), bits).nbytes for side in (d_out, d_in))
    charged = component_bits((d_out, d_in), bits) / 8
    assert stored <= charged < stored + 8
    if d_out % 4 == d_in % 4 == 0:
        assert stored == charged
