"""Gram matrices ``X^T X`` of what every linear layer reads, for RegMean: gathered where the prompts are, and
shipped without them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from compress.errors import InputError
from compress.tensorfiles import TensorFiles, open_tensors

FACTS = "grams.json"


class GramFacts(BaseModel):
    """grams.json: of which model, from how much text. ``readers``: key of a Gram matrix -> the modules that
    read the same input."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int = 1
    model_sha256: str
    prompts: int = Field(gt=0)
    tokens: int = Field(gt=0)
    readers: dict[str, list[str]]


class Grams:
    """Gram matrices on disk, one at a time. Raises InputError where the folder does not hold them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.facts = GramFacts.model_validate(json.loads((folder / FACTS).read_text()))
        except (OSError, ValueError, ValidationError) as error:
            raise InputError(f"{folder}: holds no Gram matrices; make them with twinserve gram") from error
        self._tensors: TensorFiles = open_tensors(folder, "grams")
        self._key = {module: key for key, modules in self.facts.readers.items() for module in modules}

    def gram(self, module: str) -> Tensor | None:
        """The mean over tokens of ``x x^T`` [d_in, d_in], float64, for what ``module`` reads; None where it
        was not looked at. Raises InputError for a file that is damaged."""
        key = self._key.get(module)
        if key is None:
            return None
        return unpacked(self._tensors.read(key).double() / self.facts.tokens)


def packed(gram: Tensor) -> Tensor:
    """The upper triangle [d (d + 1) / 2] of a symmetric matrix [d, d]."""
    return gram[_triangle(gram.shape[0])]


def unpacked(triangle: Tensor) -> Tensor:
    """The symmetric matrix of its upper triangle."""
    size = int(((8 * triangle.numel() + 1) ** 0.5 - 1) / 2)
    gram = triangle.new_zeros(size, size)
    gram[_triangle(size)] = triangle
    return gram + gram.triu(1).T


def _triangle(size: int) -> tuple[Tensor, Tensor]:
    rows, columns = torch.triu_indices(size, size)
    return rows, columns
