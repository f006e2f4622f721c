"""How an engine runs a bundle: by option, environment variable (TWINSERVE_…) or not at all."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import ByteSize, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from compress.loading import first_line
from serve.costs import Costs
from serve.planner import Mode
from serve.vllmmetrics import MetricsSettings

PREFIX = "TWINSERVE_"


class EngineSettings(BaseSettings):
    """How the engine runs a bundle."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", use_attribute_docstrings=True
    )

    device: str = "auto"
    """Any torch device; ``auto`` takes CUDA where it is."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Of weights and arithmetic; ``auto`` is bfloat16 on CUDA and float32 elsewhere."""
    slots: int = Field(default=16, ge=1)
    """Requests that decode together."""
    max_model_len: int | None = Field(default=None, ge=2)
    """Tokens of prompt and answer together; unset is the model's limit, at most 4096."""
    kv_memory: ByteSize = Field(default=ByteSize(2 * 2**30), ge=1)
    """Bytes for keys and values of running requests."""
    prefix_memory: ByteSize = Field(default=ByteSize(256 * 2**20), ge=0)
    """Bytes for keys and values of prompts seen before."""
    step_tokens: int = Field(default=256, ge=1)
    """Tokens of a step while answers run, prompts and answers together; a longer prompt takes several.
    With more prompts in prefill than answers, a step has up to four times as many."""
    composed_memory: ByteSize | None = Field(default=None, ge=0)
    """Bytes for mixtures kept as dense weights, each costing the bytes of the weights that experts change;
    unset has room for two."""
    composition: Mode = "auto"
    """Fixes how mixtures are computed instead of leaving it to the planner."""
    static_shapes: bool | None = None
    """Steps that only decode come in few shapes, as graphs on a GPU need, for some rows more; unset is so
    everywhere but on the CPU."""
    costs: Costs | None = None
    """What the planner would measure at start-up."""
    request_timeout: float | None = Field(default=None, gt=0)
    """Seconds after which a request is given up."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of one forward pass; unset leaves it to torch."""
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)

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
