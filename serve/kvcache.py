"""Keys and values of all running requests, one slot a request, over an unmodified decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin

from compress.errors import InputError

# Rows grow with the longest request so far: the whole context for every slot would be gigabytes
# that most traffic never touches.
FIRST_LENGTH = 256
ATTENTION_KINDS = {"full_attention", "sliding_attention"}


class SlotCache(Cache):
    """A cache of ``slots`` rows of up to ``length`` positions, each row at a position of its own.

    Running requests fill rows 0..b-1 without gaps, so that a decode step reads plain views. Before
    a forward pass ``aim`` says which rows and positions its tokens belong to.
    """

    def __init__(self, config: PretrainedConfig, slots: int, length: int) -> None:
        self.slots, self.length = slots, length
        self.rows = slice(0, 0)
        self.positions = torch.empty(0, 0, dtype=torch.long)
        self.visible = 0
        self._stores = [_SlotLayer(self) for _ in range(config.num_hidden_layers)]
        super().__init__(layers=list(self._stores))

    def aim(self, rows: slice, positions: Tensor) -> None:
        """The next forward pass holds tokens of ``rows`` at ``positions`` [rows, tokens]."""
        self.rows, self.positions = rows, positions
        self.visible = int(positions.max()) + 1

    def mask(self, dtype: torch.dtype, additive: bool) -> Tensor:
        """Causal mask [rows, 1, tokens, visible] for what was aimed at: boolean, or additive for
        attention implementations that add it to the scores."""
        columns = torch.arange(self.visible, device=self.positions.device)
        seen = (columns <= self.positions[..., None])[:, None]
        if not additive:
            return seen
        return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)

    def move(self, source: int, target: int) -> None:
        """Copy one row over another, to close the gap that a finished request leaves."""
        for layer in self._stores:
            layer.keys[target] = layer.keys[source]
            layer.values[target] = layer.values[source]

    def clear(self, row: int) -> None:
        """Forget a row's former request: masked or not, a NaN that it left would spoil every sum."""
        for layer in self._stores:
            if layer.is_initialized:
                layer.keys[row].zero_()
                layer.values[row].zero_()

    @property
    def nbytes(self) -> int:
        """Bytes held (zero before the first forward pass)."""
        held = [layer for layer in self._stores if layer.is_initialized]
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in held)


class _SlotLayer(CacheLayerMixin):
    is_sliding = False
    keys: Any
    values: Any

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        def empty(like: Tensor) -> Tensor:
            shape = (self.cache.slots, like.shape[1], 0, like.shape[3])
            return torch.zeros(shape, dtype=like.dtype, device=like.device)

        self.keys, self.values = empty(key_states), empty(value_states)
        self.is_initialized = True

    def _grow(self, length: int) -> None:
        def longer(store: Tensor) -> Tensor:
            # Zeros, not whatever memory holds: a masked NaN would still spoil the weighted sum.
            grown = store.new_zeros(*store.shape[:2], length, store.shape[3])
            grown[:, :, : store.shape[2]] = store
            return grown

        self.keys, self.values = longer(self.keys), longer(self.values)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store keys and values [rows, heads, tokens, width]; return all visible ones as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cache = self.cache
        if cache.visible > self.keys.shape[2]:
            self._grow(min(cache.length, max(FIRST_LENGTH, 2 ** (cache.visible - 1).bit_length())))
        index = torch.arange(cache.rows.start, cache.rows.stop, device=key_states.device)[:, None]
        self.keys[index, :, cache.positions] = key_states.transpose(1, 2)
        self.values[index, :, cache.positions] = value_states.transpose(1, 2)
        rows = cache.rows
        return self.keys[rows, :, : cache.visible], self.values[rows, :, : cache.visible]

    # The decoder gets an explicit mask, so these only have to exist.
    def get_mask_sizes(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        return self.cache.visible, 0

    def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
        return 0

    def get_max_length(self) -> int:
        return self.cache.length

    get_max_cache_shape = get_max_length


def context_length(config: PretrainedConfig, wanted: int | None, default: int = 4096) -> int:
    """How many positions a request may use, or InputError for caches that slots cannot hold.

    Inside its window, sliding attention sees everything, so a sliding-window model is served
    exactly up to the window and no further.
    """
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if unsupported := kinds - ATTENTION_KINDS:
        raise InputError(
            f"model type {config.model_type!r} has {', '.join(sorted(unsupported))} layers, whose state "
            "the cache cannot hold yet; only decoders with full or sliding attention can be served"
        )
    limit = int(getattr(config, "max_position_embeddings", None) or default)
    window = getattr(config, "sliding_window", None)
    if window and ("sliding_attention" in kinds or getattr(config, "layer_types", None) is None):
        limit = min(limit, int(window))
    if "local" in (getattr(config, "attention_layers", None) or []):
        limit = min(limit, int(config.window_size))
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        # Beyond it the factors change for the whole batch, also for rows that are short.
        original = rope.get("original_max_position_embeddings") or limit
        limit = min(limit, int(original))
    if wanted is None:
        return min(limit, default)
    if wanted > limit:
        raise InputError(f"max_model_len {wanted} is more than this model's {limit} positions")
    return wanted
