"""The diagonal of a fine-tune's Fisher information on disk."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from compress.errors import InputError
from compress.tensorfiles import open_tensors

FACTS = "fisher.json"


class Fisher:
    """Weights of a fine-tune's parameters, one at a time. Raises InputError where the folder does not hold
    those of the fine-tune with this hash."""

    def __init__(self, folder: Path, model_sha256: str) -> None:
        try:
            recorded = json.loads((folder / FACTS).read_text())["model_sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: holds no Fisher information") from error
        if recorded != model_sha256:
            raise InputError(f"{folder}: its Fisher information is of another model; gather it anew")
        self._tensors = open_tensors(folder)

    def read(self, name: str) -> Tensor:
        """Mean squared derivatives of one parameter, float32, shaped like it."""
        return self._tensors.read(name).to(torch.float32)
