"""What an operator can set, by option, environment variable (TWINSERVE_…) or not at all."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import ByteSize, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from compress.loading import first_line
from serve.costs import Costs
from serve.planner import Mode


class EngineSettings(BaseSettings):
    """How the engine runs a bundle.

    ``device``: any torch device; ``auto`` takes CUDA where it is. ``dtype``: ``auto`` is bfloat16 on
    CUDA and float32 elsewhere. ``slots``: requests that decode together. ``max_model_len``: tokens
    of prompt and answer together; None is the model's limit, at most 4096. ``kv_memory``,
    ``prefix_memory``: bytes for keys and values of running requests, and of prompts seen before.
    ``step_tokens``: tokens of a step while answers run, prompts and answers together; a longer
    prompt takes several. With more prompts in prefill than answers, a step has up to four times as many.
    ``composed_memory``: bytes for mixtures kept as dense weights, each costing the bytes of the
    weights that experts change; None has room for two. ``composition`` fixes how mixtures are
    served instead of leaving it to the planner. ``static_shapes``: steps that only decode come in few
    shapes, as graphs on a GPU need, for some rows more; None is so everywhere but on the CPU.
    ``costs``: what the planner would measure at start-up (JSON in the environment).
    ``request_timeout``: seconds after which a request is given up.
    """

    model_config = SettingsConfigDict(env_prefix="TWINSERVE_", extra="forbid")

    device: str = "auto"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    slots: int = Field(16, ge=1)
    max_model_len: int | None = Field(None, ge=2)
    kv_memory: ByteSize = Field(ByteSize(2 * 2**30), ge=1)
    prefix_memory: ByteSize = Field(ByteSize(256 * 2**20), ge=0)
    step_tokens: int = Field(256, ge=1)
    composed_memory: ByteSize | None = Field(None, ge=0)
    composition: Mode = "auto"
    static_shapes: bool | None = None
    costs: Costs | None = None
    request_timeout: float | None = Field(None, gt=0)
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

    def static(self) -> bool:
        """Whether decode steps have static shapes."""
        return (
            torch.device(self.torch_device()).type != "cpu"
            if self.static_shapes is None
            else self.static_shapes
        )

    def torch_dtype(self) -> torch.dtype:
        if self.dtype != "auto":
            dtype: torch.dtype = getattr(torch, self.dtype)
            return dtype
        return torch.bfloat16 if self.torch_device().startswith("cuda") else torch.float32


def fast_on_cpu(dtype: torch.dtype) -> bool:
    """Whether this processor computes in ``dtype`` itself; what it does not have is many times slower."""
    known: dict[torch.dtype, str] = {
        torch.bfloat16: "_is_avx512_bf16_supported",
        torch.float16: "_is_amx_fp16_supported",
    }
    return dtype is torch.float32 or bool(getattr(torch.cpu, known[dtype], lambda: False)())
