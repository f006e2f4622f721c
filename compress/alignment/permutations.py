"""Permutations of named spaces, and what they do to named tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compress.alignment.architectures import Architecture

# Space -> order: the unit at place i comes from place ``order[i]``. A space that is absent does not move.
Permutations = dict[str, Tensor]


def apply(
    permutations: Mapping[str, Tensor], tensors: Mapping[str, Tensor], family: Architecture
) -> dict[str, Tensor]:
    """``tensors`` (name -> parameter) with every axis in its new order; bits are moved, never computed.

    Raises InputError for a parameter that ``family`` does not have.
    """
    return {name: apply_one(permutations, name, tensor, family) for name, tensor in tensors.items()}


def apply_one(permutations: Mapping[str, Tensor], name: str, tensor: Tensor, family: Architecture) -> Tensor:
    """One parameter in its new order; the very tensor when none of its axes moves."""
    for axis, space in enumerate(family.axes(name)):
        if space is not None and space in permutations:
            tensor = tensor.index_select(axis, permutations[space])
    return tensor


def inverse(permutations: Mapping[str, Tensor]) -> Permutations:
    """What undoes ``permutations``."""
    return {space: torch.argsort(order) for space, order in permutations.items()}


def compose(after: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Permutations:
    """One set that does what applying ``before`` and then ``after`` does."""
    both = dict(before)
    for space, order in after.items():
        both[space] = before[space][order] if space in before else order
    return both


def moved(permutations: Mapping[str, Tensor]) -> Permutations:
    """``permutations`` without the spaces that do not move."""
    return {
        space: order
        for space, order in permutations.items()
        if not torch.equal(order, torch.arange(len(order)))
    }
