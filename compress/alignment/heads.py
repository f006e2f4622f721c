"""Attention heads: which permutations of them change nothing, and the best of those.

Key and value heads (*groups*) may change places together with the query heads that read them; so may the
query heads (*members*) of a group. Inside a group, the units of values may be reordered if the columns of
the output matrix that read them are, for every member. Without rotary positions the units of queries and
keys may be reordered together, independently of the values'. Heads are assigned on top of an assignment of
units for every pair of heads, as Verma and Elbayad do it (2024, arXiv:2403.00986) for heads without groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compress.alignment.architectures import KEY, OUTPUT, QUERY, VALUE, Sizes
from compress.alignment.assignment import assign
from compress.alignment.permutations import Permutations


@dataclass(frozen=True)
class HeadOrder:
    """Where heads and their units come from, places counted anew inside each group and head.

    ``groups`` [G]; ``members`` [G, M] inside the group that comes to this place; ``keyed`` and ``valued``
    [G, width]: units of query and key, and of value and output.
    """

    groups: Tensor
    members: Tensor
    keyed: Tensor
    valued: Tensor

    def permutations(self, layer: int) -> Permutations:
        """The orders of the layer's four attention spaces."""
        many, width = self.members.shape[1], self.keyed.shape[1]
        heads = self.groups[:, None] * many + self.members
        orders = {
            QUERY: heads[:, :, None] * width + self.keyed[:, None, :],
            KEY: self.groups[:, None] * width + self.keyed,
            VALUE: self.groups[:, None] * width + self.valued,
            OUTPUT: heads[:, :, None] * width + self.valued[:, None, :],
        }
        return {space.format(layer=layer): order.reshape(-1) for space, order in orders.items()}


@dataclass(frozen=True)
class HeadCorrelations:
    """Signed correlations of one layer's attention units, the reference's along the first axis.

    ``query`` and ``output``: [G·M·width, G·M·width]; ``key`` and ``value``: [G·width, G·width].
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor


@dataclass(frozen=True)
class _Pair:
    """The best match of one group of the reference with one of the model."""

    score: float
    members: Tensor
    keyed: Tensor
    valued: Tensor


def match_heads(found: HeadCorrelations, sizes: Sizes, *, rotary: bool) -> HeadOrder:
    """The order of heads and units with the largest sum of correlations.

    Units are assigned for every pair of heads, members for every pair of groups, and groups last.
    """
    G, M, W = sizes.groups, sizes.members, sizes.width
    # [G, M, W, G, M, W] -> indexed by the two groups first.
    query, output = (m.reshape(G, M, W, G, M, W) for m in (found.query, found.output))
    key, value = (m.reshape(G, W, G, W) for m in (found.key, found.value))
    pairs = [
        [
            _match_group(query[g, :, :, h], key[g, :, h], value[g, :, h], output[g, :, :, h], rotary)
            for h in range(G)
        ]
        for g in range(G)
    ]
    groups = assign(torch.tensor([[pair.score for pair in row] for row in pairs], dtype=torch.float64))
    chosen = [pairs[g][int(h)] for g, h in enumerate(groups)]
    return HeadOrder(
        groups,
        torch.stack([pair.members for pair in chosen]),
        torch.stack([pair.keyed for pair in chosen]),
        torch.stack([pair.valued for pair in chosen]),
    )


def _match_group(query: Tensor, key: Tensor, value: Tensor, output: Tensor, rotary: bool) -> _Pair:
    """``query`` and ``output``: [M, W, M, W]; ``key`` and ``value``: [W, W].

    Members and units depend on each other, so each is assigned with the other held, from the units that key
    and value alone suggest; with one member the first round is already the best.
    """
    M, W = query.shape[0], query.shape[1]
    places = torch.arange(W)
    members = torch.arange(M)
    keyed = valued = places
    if M > 1:
        valued = assign(value)
        keyed = places if rotary else assign(key)
    score = 0.0
    for _ in range(1 if M == 1 else 3):
        by_member = _unit_sums(output, valued) + _unit_sums(query, keyed)
        members = assign(by_member)
        rows = torch.arange(M)
        values = value + output[rows, :, members].mean(0)
        keys = key + query[rows, :, members].mean(0)
        valued = assign(values)
        keyed = places if rotary else assign(keys)
        score = float(values[places, valued].sum() + keys[places, keyed].sum())
    return _Pair(score, members, keyed, valued)


def _unit_sums(correlations: Tensor, units: Tensor) -> Tensor:
    """[M, W, M, W] with an order of the units [W] -> [M, M], the sum over units of each pair of heads."""
    places = torch.arange(len(units))
    return correlations[:, places, :, units].sum(0)
