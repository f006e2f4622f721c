"""Vectors of factors as 8-, 4- or 2-bit codes with one scale each.

Entries of singular vectors are close to normally distributed. Codes of few bits are therefore the levels
that quantise a normal variable with the least squared error (Max 1960, Lloyd 1982), times the vector's own
scale; codes of 8 bits are evenly spaced.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BITS = (8, 4, 2)
# The positive half of the least-squares levels for a standard normal variable.
LEVELS = {
    4: (0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0691, 2.7326),
    2: (0.4528, 1.5104),
}
# Share of its energy that a normal variable loses; for 8 bits with the scale at the largest of some
# hundreds of entries.
DISTORTION = {16: 0.0, 8: 6e-5, 4: 9.5e-3, 2: 0.1175}
SCALE_BITS = 16
ROUNDS = 3


@dataclass(frozen=True)
class Codes:
    """``vectors`` [n, width] as numbers of ``bits``. codes: uint8 [n, ceil(width * bits / 8)]; scales:
    float16 [n]."""

    codes: Tensor
    scales: Tensor
    bits: int
    width: int

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes


def quantise(vectors: Tensor, bits: int) -> Codes:
    """Codes of ``vectors`` [n, width], each with the scale that fits it best in least squares.

    Raises ValueError for bits other than 8, 4 and 2.
    """
    if bits not in BITS:
        raise ValueError(f"{bits} bits are not supported; give one of {BITS}")
    rows = vectors.to(torch.float32).contiguous()
    levels = _levels(bits, rows.device)
    cuts = (levels[1:] + levels[:-1]) / 2
    if bits == 8:
        scale = rows.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
        number = torch.bucketize(rows / scale[:, None], cuts)
    else:
        scale = rows.square().mean(1).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        for _ in range(ROUNDS):
            number = torch.bucketize(rows / scale[:, None], cuts)
            near = levels[number]
            # The scale of these levels with the least squared error; a vector of zeros keeps its own.
            fitted = (rows * near).sum(1) / near.square().sum(1)
            scale = torch.where(fitted > 0, fitted, scale)
    stored = scale.to(torch.float16)
    return Codes(_pack(number.to(torch.uint8), bits), stored, bits, rows.shape[1])


def dequantise(codes: Codes) -> Tensor:
    """The vectors [n, width] that codes stand for, float32."""
    number = _unpack(codes.codes, codes.bits, codes.width).long()
    return _levels(codes.bits, codes.codes.device)[number] * codes.scales.to(torch.float32)[:, None]


def _levels(bits: int, device: torch.device) -> Tensor:
    if bits == 8:
        return torch.arange(-127, 128, device=device) / 127
    half = torch.tensor(LEVELS[bits], device=device)
    return torch.cat((-half.flip(0), half))


def _pack(numbers: Tensor, bits: int) -> Tensor:
    each = 8 // bits
    padded = torch.nn.functional.pad(numbers, (0, -numbers.shape[1] % each))
    parts = padded.view(len(numbers), padded.shape[1] // each, each)
    shifts = torch.arange(each, device=numbers.device, dtype=torch.uint8) * bits
    return (parts << shifts).sum(2, dtype=torch.uint8)


def _unpack(codes: Tensor, bits: int, width: int) -> Tensor:
    each = 8 // bits
    shifts = torch.arange(each, device=codes.device, dtype=torch.uint8) * bits
    numbers = (codes[:, :, None] >> shifts) & ((1 << bits) - 1)
    return numbers.view(len(codes), codes.shape[1] * each)[:, :width]
