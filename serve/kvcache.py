"""Keys and values of all running requests, one slot a request, over an unmodified decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin

from compress.errors import InputError
from serve.attention import Aim, attending
from serve.scheduler import round_rows, round_up

ATTENTION_KINDS = {"full_attention", "sliding_attention"}
# Attributes of decoders whose layers keep a state instead of keys and values.
STATE_ATTRIBUTES = ("ssm_cfg", "mamba_d_state", "state_size", "attention_hidden_size", "time_mix_extra_dim")


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of one row: positions ``start`` to ``start + len(tokens)``."""

    row: int
    start: int
    tokens: Sequence[int]


class SlotCache(Cache):
    """A cache of rows that share one length, each row at a position of its own.

    A forward pass holds the tokens of several rows packed into one sequence: ``running`` says which,
    and the attention of ``serve.attention`` reads every row's own keys. Memory is taken by
    ``reserve``: rows x length. static: passes of single tokens read as many rows as ``round_rows`` says.
    """

    def __init__(self, config: PretrainedConfig, static: bool = False) -> None:
        self.static = static
        self.rows = self.length = 0
        self.aim: Aim | None = None
        self._stores = [_SlotLayer(self) for _ in range(config.num_hidden_layers)]
        super().__init__(layers=list(self._stores))

    def reserve(self, rows: int, length: int, most: int) -> None:
        """Make room for ``rows`` rows of ``length`` positions, keeping what rows hold.

        most: rows x positions that may be allocated. What is there already stays where it fits,
        or else shrinks to what is asked for, which must fit.
        """
        length = round_up(length)
        if rows <= self.rows and length <= self.length:
            return
        # Doubling, so that newcomers do not copy everything each time; exact where that is too much.
        generous = max(self.rows, 1 << (rows - 1).bit_length()), max(self.length, length)
        self.rows, self.length = generous if generous[0] * generous[1] <= most else (rows, length)
        for layer in self._stores:
            if layer.is_initialized:
                layer.resize()

    @contextmanager
    def running(
        self,
        segments: Sequence[Segment],
        device: torch.device,
        give_way: Callable[[], bool] | None = None,
    ) -> Iterator[None]:
        """A forward pass inside computes these segments, packed in this order. give_way: as of ``Aim``; what
        a pass that ended by it wrote is written again by the one that is computed in its place."""
        places = [(s.row, s.start, len(s.tokens)) for s in segments]
        span = None
        if self.static and all(count == 1 for _, _, count in places):
            span = min(round_rows(max(row for row, _, _ in places) + 1), self.rows)
        self.aim = Aim(places, device, span, give_way)
        try:
            with attending(self.aim):
                yield
        finally:
            self.aim = None

    def move(self, source: int, target: int, used: int) -> None:
        """Copy a row's first ``used`` positions over another, zeroing where they came from."""
        for layer in self._stores:
            if layer.is_initialized:
                for store in (layer.keys, layer.values):
                    store[target, :, :used] = store[source, :, :used]
        self.clear(source, used)

    def clear(self, row: int, used: int) -> None:
        """Forget a row: masked or not, a NaN that a request left would spoil its successor's sums."""
        for layer in self._stores:
            if layer.is_initialized:
                layer.keys[row, :, :used].zero_()
                layer.values[row, :, :used].zero_()

    def reset(self) -> None:
        """Give up all memory, and with it whatever a failed pass has left there."""
        self.rows = self.length = 0
        for layer in self._stores:
            layer.is_initialized = False
            layer.keys = layer.values = None

    def read(self, row: int, start: int, stop: int) -> list[tuple[Tensor, Tensor]]:
        """Copies of every layer's keys and values [heads, positions, width] of one row."""
        return [
            (layer.keys[row, :, start:stop].clone(), layer.values[row, :, start:stop].clone())
            for layer in self._stores
        ]

    def write(self, row: int, start: int, block: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Put what ``read`` gave into a row, from position ``start`` on."""
        for layer, (keys, values) in zip(self._stores, block, strict=True):
            stop = start + keys.shape[1]
            layer.keys[row, :, start:stop] = keys
            layer.values[row, :, start:stop] = values

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
        # Zeros, not whatever memory holds: a masked NaN would still spoil the weighted sum.
        def empty(like: Tensor) -> Tensor:
            return like.new_zeros(self.cache.rows, like.shape[1], self.cache.length, like.shape[3])

        self.keys, self.values = empty(key_states), empty(value_states)
        self.is_initialized = True

    def resize(self) -> None:
        def resized(store: Tensor) -> Tensor:
            made = store.new_zeros(self.cache.rows, store.shape[1], self.cache.length, store.shape[3])
            rows, length = min(made.shape[0], store.shape[0]), min(made.shape[2], store.shape[2])
            made[:rows, :, :length] = store[:rows, :, :length]
            return made

        self.keys, self.values = resized(self.keys), resized(self.values)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store keys and values [1, heads, tokens, width]; returns the whole store, which
        ``serve.attention`` knows how to read."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        aim = self.cache.aim
        assert aim is not None, "the cache was not aimed"
        self.keys[aim.rows, :, aim.positions] = key_states[0].transpose(0, 1)
        self.values[aim.rows, :, aim.positions] = value_states[0].transpose(0, 1)
        return self.keys, self.values

    # The attention makes its own masks, so these only have to exist.
    def get_mask_sizes(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        return self.cache.length, 0

    def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
        return 0

    def get_max_length(self) -> int:
        return self.cache.length

    get_max_cache_shape = get_max_length


def check_cacheable(config: PretrainedConfig) -> None:
    """Raises InputError for decoders whose layers keep what slots cannot hold."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    others = sorted(kinds - ATTENTION_KINDS)
    others += [name for name in STATE_ATTRIBUTES if getattr(config, name, None) is not None]
    if others:
        raise InputError(
            f"model type {config.model_type!r} has {', '.join(others)} layers, whose state the cache cannot "
            "hold; only decoders with full or sliding attention can be served"
        )


def context_length(config: PretrainedConfig, wanted: int | None, default: int = 4096) -> int:
    """How many positions a request may use, prompt and answer.

    Raises InputError for more than the model has, and for caches that slots cannot hold.
    """
    check_cacheable(config)
    limit = int(getattr(config, "max_position_embeddings", None) or default)
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


def position_bytes(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values that one position of one row takes, over all layers."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * dtype.itemsize)
