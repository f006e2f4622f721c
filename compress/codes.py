"""Quantised factors of an expert on disk: ``quantised.safetensors`` beside its adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compress.deltas import Delta
from compress.errors import InputError
from compress.lowrank import LowRank
from compress.quantize import BITS, Codes, dequantise, quantise
from compress.tensorfiles import TensorFiles

QUANTISED = "quantised"
# Keeps the least-squares refit solvable where quantised columns are nearly alike.
RIDGE = 1e-6


@dataclass(frozen=True)
class QuantisedFactors:
    """Both factors of one matrix as codes, groups of components by bits: bits -> (A's rows, B's columns)."""

    groups: Mapping[int, tuple[Codes, Codes]]

    @property
    def nbytes(self) -> int:
        return sum(codes.nbytes for pair in self.groups.values() for codes in pair)

    @property
    def rank(self) -> int:
        return sum(len(a.scales) for a, _ in self.groups.values())

    def dequantised(self) -> LowRank:
        """The factors that the codes stand for, float32."""
        a = torch.cat([dequantise(a) for a, _ in self.groups.values()])
        b = torch.cat([dequantise(b) for _, b in self.groups.values()]).T
        return LowRank(A=a, B=b.contiguous())

    def tensors(self, name: str) -> dict[str, Tensor]:
        """As they are stored, under names that begin with the parameter's."""
        found: dict[str, Tensor] = {}
        for bits, pair in self.groups.items():
            for factor, codes in zip("AB", pair, strict=True):
                found[f"{name}.{factor}.{bits}.codes"] = codes.codes
                found[f"{name}.{factor}.{bits}.scales"] = codes.scales
        return found


def quantise_factors(factors: LowRank, bits: np.ndarray, delta: Delta) -> QuantisedFactors:
    """Codes of the components of ``factors`` that have bits; ``bits``: [rank] of 8, 4, 2 or 0, falling.

    B is quantised first; A is then fitted anew to ``delta`` in least squares, which takes back a part of
    what B lost, and quantised.
    """
    kept = torch.from_numpy(np.flatnonzero(bits))
    chosen = bits[bits > 0]
    counts = {b: int((chosen == b).sum()) for b in BITS if (chosen == b).any()}
    b_codes = _coded(factors.B.T[kept], counts)
    b = torch.cat([dequantise(codes) for codes in b_codes.values()]).T.double()
    gram = b.T @ b
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    a = torch.linalg.solve(gram, delta.after(b.T)).float()
    a_codes = _coded(a, counts)
    return QuantisedFactors({bit: (a_codes[bit], b_codes[bit]) for bit in counts})


def _coded(vectors: Tensor, counts: Mapping[int, int]) -> dict[int, Codes]:
    parts = torch.split(vectors, list(counts.values()))
    return {bits: quantise(part, bits) for bits, part in zip(counts, parts, strict=True)}


def read_factors(tensors: TensorFiles, name: str, sides: tuple[int, int]) -> LowRank | None:
    """The factors of one parameter, dequantised, or None. sides: (d_out, d_in) of its linear map.

    Raises InputError where the codes do not fit the parameter.
    """
    groups: dict[int, tuple[Codes, Codes]] = {}
    for bits in BITS:
        if f"{name}.A.{bits}.codes" not in tensors.files:
            continue
        a, b = (_codes(tensors, f"{name}.{f}.{bits}", bits, sides[f == "A"]) for f in "AB")
        if len(a.scales) != len(b.scales):
            raise InputError(
                f"{tensors.folder}: {name} has {len(a.scales)} rows of A and {len(b.scales)} of B"
            )
        groups[bits] = (a, b)
    return QuantisedFactors(groups).dequantised() if groups else None


def _codes(tensors: TensorFiles, key: str, bits: int, width: int) -> Codes:
    missing = [part for part in ("codes", "scales") if f"{key}.{part}" not in tensors.files]
    if missing:
        raise InputError(f"{tensors.folder}: {key}.{missing[0]} is missing; copy the expert again")
    codes, scales = tensors.read(f"{key}.codes"), tensors.read(f"{key}.scales")
    wanted = (len(scales), -(-width * bits // 8))
    if codes.dtype != torch.uint8 or scales.dim() != 1 or tuple(codes.shape) != wanted:
        raise InputError(
            f"{tensors.folder}: {key}.codes has shape {tuple(codes.shape)}, the base's layer needs {wanted}; "
            "the expert belongs to another model"
        )
    return Codes(codes, scales, bits, width)
