"""Token ids to the mean of their embeddings: no forward pass at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from compress.errors import InputError
from router.features import Progress
from router.query import Turn

# Turns looked up at a time: bounds memory, and lets progress be seen.
BATCH = 256


@dataclass(frozen=True)
class EmbeddingFeatures:
    """Mean of the shared base's input embeddings over a turn's tokens, each divided by its root mean
    square, so that rare tokens with long vectors do not drown the rest."""

    needs_model: ClassVar[bool] = True

    def extract(self, model: Any, turns: Sequence[Turn], progress: Progress | None = None) -> np.ndarray:
        """Float32 ``[len(turns), width of the embedding]``. Raises InputError for a turn without tokens."""
        table = model.get_input_embeddings()
        device = table.weight.device
        parts = [np.zeros((0, table.weight.shape[1]), dtype=np.float32)]
        for start in range(0, len(turns), BATCH):
            chosen = turns[start : start + BATCH]
            lengths = torch.tensor([len(turn.ids) for turn in chosen])
            if not lengths.all():
                raise InputError("a prompt has no tokens: nothing to route")
            ids = torch.tensor([token for turn in chosen for token in turn.ids], device=device)
            owner = torch.arange(len(chosen)).repeat_interleave(lengths).to(device)
            with torch.no_grad():
                # As a batch of one, which is what the embedding of a served model expects.
                states = table(ids[None])[0].float()
                states = F.rms_norm(states, states.shape[-1:], eps=1e-12)
                sums = states.new_zeros(len(chosen), states.shape[1]).index_add_(0, owner, states)
            parts.append((sums.cpu() / lengths[:, None]).numpy())
            if progress is not None:
                progress(start + len(chosen), len(turns))
        return np.concatenate(parts)
