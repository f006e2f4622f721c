"""How many singular vectors of every matrix are kept, and with how many bits, under one budget of bytes.

A component of singular value s loses s² where it is dropped, and a known share of s² where its two vectors
are stored with few bits. Bits go where they save most: each component's choices form a curve of saved energy
over cost, and the steps of all curves are taken in the order of their slope until the budget is spent. For
curves that bend downwards, as these do, this is the best choice there is (Shoham and Gersho 1988).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compress.quantize import DISTORTION, SCALE_BITS


@dataclass(frozen=True)
class Spectrum:
    """Singular values of one matrix, falling, [k]; its sides; and the energy that its expert's deltas have
    together, by which losses of different experts compare."""

    values: np.ndarray
    sides: tuple[int, int]
    energy: float


def lost_share(bits: int) -> float:
    """Share of a component's energy lost where both its vectors have ``bits``; all of it for 0."""
    return 1.0 if bits == 0 else 1 - (1 - DISTORTION[bits]) ** 2


def component_bits(sides: tuple[int, int], bits: int) -> int:
    """Bits of one component at most: two vectors, and their scales where they are codes."""
    if bits in (0, 16):
        return bits * sum(sides)
    # Codes fill whole bytes, four of the smallest ones each.
    return bits * sum(-(-side // 4) * 4 for side in sides) + 2 * SCALE_BITS


def allocate(
    spectra: Mapping[str, Spectrum], budget: int, choices: Sequence[int]
) -> tuple[dict[str, np.ndarray], float]:
    """Bits of every component: name -> [k] numbers of ``choices``, or 0.

    budget: bytes for all. choices: 16, or some of 8, 4, 2. Also returns the expected loss: the shares of
    energy that experts lose, added up. The first step that does not fit into the budget ends it.
    """
    steps = sorted(choices)
    names, columns, slopes, costs, gains, targets = [], [], [], [], [], []
    for number, (name, spectrum) in enumerate(spectra.items()):
        names.append(name)
        energies = np.square(spectrum.values.astype(np.float64)) / spectrum.energy
        before_lost, before_cost = 1.0, 0
        for bits in steps:
            cost = component_bits(spectrum.sides, bits) - before_cost
            gain = energies * (before_lost - lost_share(bits))
            columns.append(np.stack((np.full(len(energies), number), np.arange(len(energies)))))
            slopes.append(gain / cost)
            gains.append(gain)
            costs.append(np.full(len(energies), cost))
            targets.append(np.full(len(energies), bits))
            before_lost, before_cost = lost_share(bits), before_cost + cost
    bits_of = {name: np.zeros(len(spectrum.values), dtype=np.int64) for name, spectrum in spectra.items()}
    lost = sum(float(np.square(s.values.astype(np.float64)).sum()) / s.energy for s in spectra.values())
    if not names:
        return bits_of, lost
    order = np.argsort(-np.concatenate(slopes), kind="stable")
    spent = np.cumsum(np.concatenate(costs)[order])
    taken = order[: int(np.searchsorted(spent, 8 * budget, side="right"))]
    # A component of no energy is worth no bits.
    taken = taken[np.concatenate(gains)[taken] > 0]
    places, target = np.concatenate(columns, 1)[:, taken], np.concatenate(targets)[taken]
    for number, name in enumerate(names):
        mine = places[0] == number
        np.maximum.at(bits_of[name], places[1, mine], target[mine])
    return bits_of, lost - float(np.concatenate(gains)[taken].sum())
