"""Opening model folders with transformers: safetensors only, and never code from the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from compress.errors import InputError


def load_model(folder: Path, dtype: torch.dtype) -> Any:
    """The causal language model of ``folder`` in ``dtype``. Raises InputError when there is none that can be
    used, or when some of its weights are not there."""
    try:
        found: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise  # the folder is not to blame
    except Exception as error:  # each architecture fails in its own way
        raise InputError(f"{folder}: its model cannot be loaded: {first_line(error)}") from error
    model, loaded = found
    if missing := sorted(loaded["missing_keys"]):
        # transformers would go on with random numbers.
        raise InputError(f"{folder}: its weights lack {missing[0]}; copy or build it again")
    return model.eval()


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of ``folder``. Raises InputError when it has none that can be used."""
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # each tokenizer class fails in its own way
        raise InputError(
            f"{folder}: its tokenizer cannot be used ({first_line(error)}); copy the base's tokenizer files"
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its kind where there is none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
