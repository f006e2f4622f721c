"""The base of a bundle in memory: parameter tensors that several models may stand on."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from compress.bundle import Bundle
from compress.loading import load_model


@dataclass(frozen=True)
class BaseWeights:
    """Loaded once and never written to. files: names and hashes of what it was loaded from.

    ``plain`` is run by nobody: experts are attached to copies of its modules, which may lie in the middle
    of a step, with other tensors in place, at the moment when the next copy is made.
    """

    files: dict[str, str]
    device: str
    dtype: torch.dtype
    plain: Any

    @classmethod
    def load(cls, bundle: Bundle, device: str, dtype: torch.dtype) -> BaseWeights:
        """The base of ``bundle`` in ``dtype`` on ``device``."""
        plain = load_model(bundle.base, dtype).to(device)
        return cls(bundle.manifest.base_files, device, dtype, plain)

    def serves(self, bundle: Bundle, device: str, dtype: torch.dtype) -> bool:
        """Whether loading the bundle's base would give the very same tensors."""
        wanted = (bundle.manifest.base_files, device, dtype)
        return wanted == (self.files, self.device, self.dtype)

    def model(self) -> Any:
        """A causal language model of these parameters, with modules, buffers and configuration of its own."""
        return copy.deepcopy(self.plain, {id(parameter): parameter for parameter in self.plain.parameters()})
