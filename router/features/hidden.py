"""Token ids to one vector a prompt: the hidden state after a few decoder layers, pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from router.features import Pooling, Progress
from router.features.prefix import depth_of, masked_mean, run_layers, text_config
from router.query import Turn


@dataclass(frozen=True)
class HiddenStateFeatures:
    """Pooled hidden state of a causal decoder, after ``layer`` of its decoder layers.

    layer:   decoder layers that are run, 1 to all of them; None = a sixth of them, rounded.
    pooling: "mean" over the prompt's tokens, the "last" token alone, or "both" in that order; of states
             divided by their root mean square, for a few tokens, the first above all, may have states a
             thousand times as large whatever the text (Sun et al. 2024, Massive Activations).
    """

    layer: int | None = None
    pooling: Pooling = "mean"
    needs_model: ClassVar[bool] = True

    def extract(
        self, model: nn.Module, turns: Sequence[Turn], progress: Progress | None = None
    ) -> np.ndarray:
        """Pooled states, float32 ``[len(turns), hidden]``, twice as wide for both. A row does not depend on
        its neighbours beyond rounding. Raises what ``prefix.run_layers`` does."""
        depth = depth_of(model, self.layer)
        rows = run_layers(model, depth, turns, self._pooled, progress)
        width = text_config(model).hidden_size * (2 if self.pooling == "both" else 1)
        return np.stack(rows) if rows else np.zeros((0, width), dtype=np.float32)

    def _pooled(self, states: Tensor, mask: Tensor) -> Tensor:
        states = nn.functional.rms_norm(states, states.shape[-1:], eps=1e-12)
        if self.pooling == "mean":
            return masked_mean(states, mask)
        last = states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]
        return last if self.pooling == "last" else torch.cat([masked_mean(states, mask), last], dim=1)
