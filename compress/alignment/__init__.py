"""Models of different initialisations brought into one order of units, so that they can be averaged."""

from compress.alignment.align import Alignment, align
from compress.alignment.architectures import ARCHITECTURES, PARTS, Part
from compress.alignment.folder import read_permutations, write_aligned
from compress.alignment.permutations import Permutations, apply, compose, inverse

__all__ = [
    "ARCHITECTURES",
    "PARTS",
    "Alignment",
    "Part",
    "Permutations",
    "align",
    "apply",
    "compose",
    "inverse",
    "read_permutations",
    "write_aligned",
]
