"""What an operator can set, by option, environment variable (TWINSERVE_…) or not at all."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from compress.loading import first_line


class EngineSettings(BaseSettings):
    """How the engine runs a bundle.

    ``device``: any torch device; ``auto`` takes CUDA where it is. ``dtype``: ``auto`` is bfloat16 on
    CUDA and float32 elsewhere. ``slots``: requests that decode together. ``max_model_len``: tokens
    of prompt and answer together; None is the model's limit, at most 4096. ``composed_copies``: how
    many mixtures may be kept as dense weights, each costing the bytes of the weights that experts
    change. ``composition`` fixes how mixtures are served instead of leaving it to the planner.
    """

    model_config = SettingsConfigDict(env_prefix="TWINSERVE_", extra="forbid")

    device: str = "auto"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    slots: int = Field(16, ge=1)
    max_model_len: int | None = Field(None, ge=2)
    composed_copies: int = Field(1, ge=0)
    composition: Literal["auto", "factored", "composed"] = "auto"
    threads: int | None = Field(None, ge=1)

    @field_validator("device")
    @classmethod
    def _known(cls, name: str) -> str:
        if name != "auto":
            try:
                torch.empty(0, device=name)
            except (RuntimeError, AssertionError, NotImplementedError) as error:
                raise ValueError(f"{name!r} is no device of this machine: {first_line(error)}") from error
        return name

    def torch_device(self) -> str:
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    def torch_dtype(self) -> torch.dtype:
        if self.dtype != "auto":
            dtype: torch.dtype = getattr(torch, self.dtype)
            return dtype
        return torch.bfloat16 if self.torch_device().startswith("cuda") else torch.float32
