"""LoRA on every linear layer of a decoder, and how it is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

ALPHA_PER_RANK = 2


def with_adapter(model: Any, rank: int, base_name: str) -> Any:
    """``model`` frozen, with a trainable adapter of ``rank`` on every linear layer but the head
    (Hu et al. 2021, arXiv:2106.09685). ``base_name`` is what readers of the adapter load it over."""
    lora = LoraConfig(
        r=rank,
        lora_alpha=ALPHA_PER_RANK * rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, lora)
    lora.base_model_name_or_path = base_name
    return adapted


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter as PEFT does, in float16, and round the one in memory alike, so that what is
    scored is what is stored."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float16)
    # The head is never adapted, and looking for the base on the hub needs a network.
    model.save_pretrained(folder, save_embedding_layers=False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
