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

    ``value``: [G·width, G·width]; ``output``: [G·M·width, G·M·width], of what the output matrix reads.
    ``keyed``: query, shaped as ``output``, and key, shaped as ``value``; None where positions rotate them.
    """

    value: Tensor
    output: Tensor
    keyed: tuple[Tensor, Tensor] | None


def match_heads(found: HeadCorrelations, sizes: Sizes) -> HeadOrder:
    """The order of heads and units with the largest sum of correlations of values and outputs.

    Units are assigned for every pair of heads, members for every pair of groups, and groups last. Query and
    key have no say in that (it made averages no better): their units are assigned inside the heads found.
    """
    G, M, W = sizes.groups, sizes.members, sizes.width
    value, output = found.value.reshape(G, W, G, W), found.output.reshape(G, M, W, G, M, W)
    pairs = [[_match_group(value[g, :, h], output[g, :, :, h]) for h in range(G)] for g in range(G)]
    groups = assign(torch.tensor([[pair.score for pair in row] for row in pairs], dtype=torch.float64))
    chosen = [pairs[g][int(h)] for g, h in enumerate(groups)]
    members = torch.stack([pair.members for pair in chosen])
    keyed = torch.arange(W).expand(G, W)
    if found.keyed is not None:
        query, key = found.keyed[0].reshape(G, M, W, G, M, W), found.keyed[1].reshape(G, W, G, W)
        keyed = torch.stack(
            [
                assign(key[g, :, h] + _unit_pairs(query[g, :, :, h], members[g]))
                for g, h in enumerate(groups.tolist())
            ]
        )
    return HeadOrder(groups, members, keyed, torch.stack([pair.valued for pair in chosen]))


@dataclass(frozen=True)
class _Pair:
    """The best match of one group of the reference with one of the model."""

    score: float
    members: Tensor
    valued: Tensor


def _match_group(value: Tensor, output: Tensor) -> _Pair:
    """``value``: [W, W]; ``output``: [M, W, M, W].

    Members and units depend on each other, so each is assigned with the other held, beginning with the
    units that the values alone suggest. That climbs, and a few rounds are enough.
    """
    places = torch.arange(len(value))
    valued = assign(value)
    for _ in range(3):
        members = assign(output[:, places, :, valued].sum(0))
        scores = value + _unit_pairs(output, members)
        valued = assign(scores)
    return _Pair(float(scores[places, valued].sum()), members, valued)


def _unit_pairs(correlations: Tensor, members: Tensor) -> Tensor:
    """[M, W, M, W] with an order of the members [M] -> [W, W], the mean over matched members."""
    return correlations[torch.arange(len(members)), :, members].mean(0)
