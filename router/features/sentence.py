"""Text to the vector of a sentence encoder, a model of its own beside the served one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from torch.nn import functional as F

from compress.errors import InputError
from compress.loading import first_line
from router.features import Progress
from router.query import Turn, clip

TOKENS = 256
BATCH = 32


@dataclass(frozen=True)
class SentenceFeatures:
    """Mean of an encoder's last states over a turn's tokens, of unit length (Reimers and Gurevych 2019),
    as most sentence-transformers models are meant to be read.

    encoder: a folder or hub id that ``transformers`` reads, such as sentence-transformers/all-MiniLM-L6-v2.
    """

    encoder: str
    needs_model: ClassVar[bool] = False

    def extract(self, model: Any, turns: Sequence[Turn], progress: Progress | None = None) -> np.ndarray:
        """Float32 ``[len(turns), width of the encoder]``; ``model`` only says on which device.

        Raises InputError for an encoder that cannot be loaded.
        """
        device = next(model.parameters()).device
        tokenizer, encoder = _load(self.encoder, str(device))
        limit = min(TOKENS, getattr(encoder.config, "max_position_embeddings", None) or TOKENS)
        parts = [np.zeros((0, encoder.config.hidden_size), dtype=np.float32)]
        for start in range(0, len(turns), BATCH):
            ids = [clip(tokenizer(t.text)["input_ids"], limit) for t in turns[start : start + BATCH]]
            batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(device)
            with torch.no_grad():
                states = encoder(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None]
            parts.append(F.normalize((states * mask).sum(1) / mask.sum(1)).cpu().numpy())
            if progress is not None:
                progress(start + len(ids), len(turns))
        return np.concatenate(parts)


@lru_cache(maxsize=2)
def _load(path: str, device: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        encoder = AutoModel.from_pretrained(path, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"the sentence encoder {path!r} cannot be loaded ({first_line(error)}): "
            "name a folder or a hub id of one with safetensors"
        ) from error
    return tokenizer, encoder.eval().to(device)
