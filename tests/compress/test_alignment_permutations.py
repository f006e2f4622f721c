"""Permutations as a group, and the matching by itself."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.alignment.architectures import ARCHITECTURES, Sizes
from compress.alignment.assignment import assign
from compress.alignment.heads import HeadCorrelations, match_heads
from compress.alignment.moments import CrossMoments
from compress.alignment.permutations import apply, compose, inverse, moved
from tests.permuted import random_symmetry

UNITS = Sizes(layers=2, hidden=6, ffn=5, groups=2, members=2, width=3)
FAMILY = ARCHITECTURES["llama"]


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "model.embed_tokens.weight": (4, 6),
        "model.layers.1.self_attn.q_proj.weight": (12, 6),
        "model.layers.1.self_attn.o_proj.weight": (6, 12),
        "model.layers.0.mlp.up_proj.weight": (5, 6),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def some(seed: int, drop: int) -> dict[str, torch.Tensor]:
    """A random symmetry in which some spaces are absent."""
    whole = random_symmetry(UNITS, seed, rotary=True)
    return {space: order for at, (space, order) in enumerate(whole.items()) if not drop >> at & 1}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


seeds, drops = st.integers(0, 10**6), st.integers(0, 2**11 - 1)


@settings(max_examples=60, deadline=None)
@given(seeds, drops)
def test_the_inverse_undoes(seed, drop):
    permutations, before = some(seed, drop), tensors(seed)
    after = apply(permutations, before, FAMILY)
    assert same(apply(inverse(permutations), after, FAMILY), before)
    assert moved(compose(inverse(permutations), permutations)) == {}


@settings(max_examples=60, deadline=None)
@given(seeds, seeds, drops, drops)
def test_a_composition_is_one_after_the_other(first, second, some_first, some_second):
    before, p, q = tensors(first), some(first, some_first), some(second, some_second)
    assert same(apply(compose(q, p), before, FAMILY), apply(q, apply(p, before, FAMILY), FAMILY))


@settings(max_examples=30, deadline=None)
@given(seeds, seeds, seeds)
def test_composition_is_associative(a, b, c):
    p, q, r = some(a, 0), some(b, 0), some(c, 0)
    assert same(compose(r, compose(q, p)), compose(compose(r, q), p))


def test_correlations_are_those_of_numpy_and_constants_correlate_with_nothing():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(300, 5, generator=generator) for _ in range(2))
    x[:, 2], y[:, 1] = 7.25, x[:, 0] * -3 + 100
    moments = CrossMoments(5)
    for start in range(0, 300, 70):
        moments.add(x[start : start + 70], y[start : start + 70])
    found = moments.correlation()
    expected = torch.corrcoef(torch.cat([x, y], 1).double().T)[:5, 5:]
    assert (found[2] == 0).all()
    rows = [0, 1, 3, 4]
    torch.testing.assert_close(found[rows], expected[rows], rtol=1e-9, atol=1e-9)
    assert found[0, 1] == pytest.approx(-1)


def test_heads_are_matched_as_well_as_by_trying_all():
    width, heads = 3, 3
    generator = torch.Generator().manual_seed(0)
    query, key, value, output = torch.rand(
        4, heads * width, heads * width, generator=generator, dtype=torch.float64
    )
    units = Sizes(layers=1, hidden=9, ffn=4, groups=heads, members=1, width=width)
    order = match_heads(HeadCorrelations(value, output, (query, key)), units)
    found = order.permutations(0)

    def total(*pairs: tuple[str, torch.Tensor]) -> float:
        rows = torch.arange(heads * width)
        return sum(float(matrix[rows, found[f"layers.0.{space}"]].sum()) for space, matrix in pairs)

    def best(matrix: torch.Tensor) -> float:
        return max(
            float(sum(matrix[i, p[i]] for i in range(width))) for p in itertools.permutations(range(width))
        )

    def block(matrix: torch.Tensor, g: int, h: int) -> torch.Tensor:
        return matrix[g * width : (g + 1) * width, h * width : (h + 1) * width]

    def of(matrix: torch.Tensor, arrangement: tuple[int, ...]) -> float:
        return sum(best(block(matrix, g, h)) for g, h in enumerate(arrangement))

    tried = max(of(value + output, arrangement) for arrangement in itertools.permutations(range(heads)))
    assert total(("value", value), ("output", output)) == pytest.approx(tried)
    inside = of(query + key, tuple(order.groups.tolist()))
    assert total(("query", query), ("key", key)) == pytest.approx(inside)


def test_query_heads_are_matched_inside_their_groups():
    generator = torch.Generator().manual_seed(3)
    units = Sizes(layers=1, hidden=8, ffn=4, groups=3, members=4, width=5)
    hidden = random_symmetry(units, 7, rotary=True)
    few, many = (torch.randn(n, 400, generator=generator, dtype=torch.float64) for n in (15, 60))

    def correlation(units: torch.Tensor, space: str) -> torch.Tensor:
        return torch.corrcoef(torch.cat([units, units[hidden[f"layers.0.{space}"]]]))[
            : len(units), len(units) :
        ]

    seen = HeadCorrelations(correlation(few, "value"), correlation(many, "output"), None)
    found = match_heads(seen, units).permutations(0)
    for space, order in found.items():
        assert torch.equal(order, inverse(hidden)[space]), space


def test_the_assignment_maximises_signed_scores():
    scores = torch.tensor([[0.1, -0.9], [0.2, 0.3]], dtype=torch.float64)
    assert assign(scores).tolist() == [0, 1]
