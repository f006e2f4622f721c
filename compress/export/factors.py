"""One mixture of a bundle as LoRA factors over its base/, and what LoRA cannot hold of it.

A mixture is ``W_base + sum_t g_t B_t A_t``, which is one pair of factors again: the A under each other, the
``g_t B_t`` beside each other. Summing the A and the B, as PEFT's ``linear`` combination does, would be
another matrix: ``(sum B) (sum A)`` has all the cross terms.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

from compress.errors import InputError
from compress.experts import Expert
from compress.lowrank import LowRank
from compress.parameters import Parameter
from compress.tensorfiles import is_finite

Parts = list[tuple[float, LowRank]]


@dataclass
class Held:
    """What an adapter holds of a mixture, and the parameters that it leaves out because LoRA cannot."""

    factors: dict[str, LowRank] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    energy: float = 0.0
    lost: float = 0.0

    @property
    def share(self) -> float:
        """Of the energy of the mixture's delta, what is left out."""
        return self.lost / self.energy if self.energy > 0 else 0.0


def hold(
    experts: Sequence[tuple[float, Expert]],
    table: dict[str, Parameter],
    able: Collection[str],
    *,
    dtype: torch.dtype | None = None,
    unit_scale: bool = False,
) -> Held:
    """The factors of ``sum g D`` for every parameter that an adapter is ``able`` to hold.

    experts: with their weights g. dtype: of the factors; None: as they are stored, the wider where those of
    several are joined. unit_scale: fold even a single expert's scale into its B. Dense deltas, which would
    be larger as factors than as weights, are left out. Raises InputError where a factor is too large for its
    dtype.
    """
    held = Held()
    for name, parameter in table.items():
        if not parameter.is_matrix:
            vectors = [(g, expert.vector(name)) for g, expert in experts]
            energy = _energy([(g, vector) for g, vector in vectors if vector is not None])
        else:
            found = [(g, expert.low_rank(name)) for g, expert in experts]
            parts = [(g, factors) for g, factors in found if factors is not None]
            if not parts:
                continue
            dense = any(factors.is_exact for _, factors in parts)
            if name in able and not dense:
                held.factors[name] = joined(name, parts, dtype, unit_scale)
                held.energy += held.factors[name].energy
                continue
            energy = _energy([(g, f.dense()) for g, f in parts]) if dense else joined(name, parts).energy
        if energy > 0:
            held.left_out.append(name)
            held.lost, held.energy = held.lost + energy, held.energy + energy
    return held


def joined(name: str, parts: Parts, dtype: torch.dtype | None = None, unit_scale: bool = False) -> LowRank:
    """``sum g s B A`` as one pair of factors: A [sum r, d_in], B [d_out, sum r], scale 1.

    A single expert of weight 1 stays as it is, unless ``unit_scale``.
    """
    if len(parts) == 1 and parts[0][0] == 1.0 and not unit_scale:
        (_, whole) = parts[0]
    else:
        stored = reduce(torch.promote_types, (f.B.dtype for _, f in parts))
        wide = torch.promote_types(stored, torch.float32)
        a = torch.cat([f.A.to(stored) for _, f in parts])
        b = torch.cat([(g * f.scale * f.B.to(wide)).to(dtype or stored) for g, f in parts], dim=1)
        whole = LowRank(a, b)
    if dtype is not None:
        whole = LowRank(whole.A.to(dtype), whole.B.to(dtype), whole.scale)
    if not (is_finite(whole.A) and is_finite(whole.B)):
        raise InputError(
            f"--dtype: the factors of {name} do not fit into {whole.B.dtype}; use bfloat16 or float32"
        )
    return whole


def padded(factors: dict[str, LowRank]) -> dict[str, LowRank]:
    """The same deltas, all of one rank: rows of A and columns of B that are zero. Scales must be 1."""
    rank = max((f.rank for f in factors.values()), default=0)
    return {name: LowRank(_grown(f.A, rank, 0), _grown(f.B, rank, 1)) for name, f in factors.items()}


def _grown(factor: Tensor, size: int, side: int) -> Tensor:
    shape = list(factor.shape)
    shape[side] = size - shape[side]
    return torch.cat([factor, factor.new_zeros(shape)], side)


def _energy(deltas: list[tuple[float, Tensor]]) -> float:
    if not deltas:
        return 0.0
    total = sum((g * delta.double() for g, delta in deltas[1:]), deltas[0][0] * deltas[0][1].double())
    return float(total.square().sum())
