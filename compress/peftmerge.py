"""Adapters that are no sum of two factors (DoRA, LoHa, LoKr, IA3, VeRA, …): merged by PEFT itself, once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.loading import first_line, load_model
from compress.sources import cache_folder
from compress.staging import staged


def needs_peft(folder: Path) -> bool:
    """Whether the adapter in ``folder`` is of a kind whose delta only PEFT knows."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
    except (ValueError, OSError, RecursionError):
        return False  # told in one sentence where the file is read as a LoRA adapter
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        return False
    return config["peft_type"] != "LORA" or bool(config.get("use_dora"))


def merged_by_peft(folder: Path, base: Checkpoint) -> Path:
    """The base with the adapter merged into it, as a model folder in the cache, made on first use.

    Keyed by the content of both. Holds the whole model in memory while it is made. Raises InputError where
    the adapter has no safetensors, or PEFT cannot merge it: soft prompts are no weights.
    """
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise InputError(
            f"{folder}: no adapter_model.safetensors here, and a pickle is never opened; save it anew"
        )
    digest = hashlib.sha256(base.sha256().encode())
    for path in (weights, folder / "adapter_config.json"):
        digest.update(path.read_bytes())
    made = cache_folder() / "merged" / f"{folder.name}-{digest.hexdigest()[:16]}"
    if made.is_dir():
        return made
    from peft import PeftModel

    try:
        adapted: Any = PeftModel.from_pretrained(load_model(base.folder, torch.float32), folder)
        model = adapted.merge_and_unload()
    except Exception as error:  # every kind of adapter fails in its own way
        raise InputError(
            f"{folder}: PEFT cannot merge this adapter into the base ({first_line(error)}); give the merged "
            "checkpoint instead"
        ) from error
    with staged(made) as fresh:
        model.save_pretrained(fresh)
    return made
