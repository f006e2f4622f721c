"""Attention over slots: the tokens of many requests packed into one sequence, each seeing its own row.

Registered as an attention implementation of transformers, so that decoders stay unmodified: every
layer that only looks at one token at a time sees ``[1, tokens, width]``, and nothing is padded. Rows
that decode attend together in one call, and so do neighbouring chunks of prompts that stand at the same
positions; any other chunk attends alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from compress.errors import InputError
from serve.scheduler import round_up

NAME = "twinserve_slots"
# What layers may pass beside queries, keys and values, and what has no influence on the result.
HARMLESS = {
    "dropout",
    "position_ids",
    "use_cache",
    "cache_position",
    "output_attentions",
    "output_router_logits",
    "is_causal",
}

_current = threading.local()


class InterruptedPassError(Exception):
    """A forward pass was given up between two layers; nothing that it computed counts."""


class Aim:
    """Where the packed tokens of one forward pass belong.

    segments: (row, first position, tokens), those of one token first. ``rows`` and ``positions``
    [tokens] place every token; masks are made once a pass, for each window. span: so many rows of the
    cache are read by those of one token, wherever these stand; None reads from their first to their last.
    give_way: asked in every layer; where it says yes, the pass ends there by InterruptedPassError.
    """

    def __init__(
        self,
        segments: Sequence[tuple[int, int, int]],
        device: torch.device,
        span: int | None = None,
        give_way: Callable[[], bool] | None = None,
    ) -> None:
        self.give_way = give_way
        self.singles = [s for s in segments if s[2] == 1]
        longer = [s for s in segments if s[2] > 1]
        if [*self.singles, *longer] != list(segments):
            raise ValueError("segments of one token come first")
        # Neighbours of the same positions attend in one call: (rows, first position, tokens of each).
        self.chunks = [
            (torch.tensor([row for row, _, _ in alike], device=device), *place)
            for place, alike in groupby(longer, key=lambda s: s[1:])
        ]
        self.device = device
        rows = [row for row, _, count in segments for _ in range(count)]
        positions = [start + i for _, start, count in segments for i in range(count)]
        self.rows = torch.tensor(rows, device=device)
        self.positions = torch.tensor(positions, device=device)
        self._masks: dict[tuple[int, int | None], Tensor] = {}
        if self.singles:
            present = [row for row, _, _ in self.singles]
            self.low, self.high = (0, span) if span else (min(present), max(present) + 1)
            # Rounded, as rows are: shapes, and on a GPU kernels, stay the same for many steps.
            self.visible = round_up(max(start for _, start, _ in self.singles) + 1)
            dense = not span and present == list(range(self.low, self.high))
            self.order = None if dense else torch.tensor(present, device=device) - self.low

    def single_mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Additive mask [rows, 1, 1, visible] of the rows that decode."""
        key = (-1, window)
        if key not in self._masks:
            # Rows between that do not take part see their first position: any finite result will do.
            last = torch.zeros(self.high - self.low, dtype=torch.long, device=self.device)
            last[self.rows[: len(self.singles)] - self.low] = self.positions[: len(self.singles)]
            self._masks[key] = self._additive(last, self.visible, window, dtype)[:, None, None]
        return self._masks[key]

    def chunk_mask(self, index: int, window: int | None, groups: int, dtype: torch.dtype) -> Tensor:
        """Additive mask [groups * tokens, visible] of one chunk."""
        key = (index, window)
        if key not in self._masks:
            _, start, count = self.chunks[index]
            own = torch.arange(start, start + count, device=self.device)
            self._masks[key] = self._additive(own, start + count, window, dtype).repeat(groups, 1)
        return self._masks[key]

    def _additive(self, own: Tensor, visible: int, window: int | None, dtype: torch.dtype) -> Tensor:
        columns = torch.arange(visible, device=self.device)
        hidden = columns > own[:, None]
        if window is not None:
            hidden |= columns <= own[:, None] - window
        return torch.zeros(hidden.shape, dtype=dtype, device=self.device).masked_fill_(hidden, -torch.inf)


@contextmanager
def attending(aim: Aim) -> Iterator[None]:
    """Attention on this thread is that of ``aim``."""
    _current.aim = aim
    try:
        yield
    finally:
        _current.aim = None


class Switch:
    """Turns a model's attention over slots on and off."""

    def __init__(self, model: PreTrainedModel) -> None:
        found = (getattr(module, "config", None) for module in model.modules())
        self._configs = list({id(config): config for config in found if config is not None}.values())

    @contextmanager
    def on(self) -> Iterator[None]:
        """Forward passes inside use it. Outside, whoever else uses the model, the router above all,
        finds it as it was."""
        kept = [config._attn_implementation_internal for config in self._configs]
        try:
            for config in self._configs:
                config._attn_implementation_internal = NAME
            yield
        finally:
            for config, implementation in zip(self._configs, kept, strict=True):
                config._attn_implementation_internal = implementation


def check_attention(model: PreTrainedModel) -> None:
    """Raises InputError for decoders whose layers do not let their attention be chosen."""
    if not model._can_set_attn_implementation():
        raise InputError(
            f"{type(model).__name__} does not use transformers' attention interface, so its requests "
            "cannot share a batch; only decoders that do can be served"
        )


def slot_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Packed queries [1, heads, tokens, width] against the stores that ``SlotCache`` returns,
    keys and values [rows, kv heads, length, width]; returns [1, tokens, heads, width].

    Grouped queries (Ainslie et al. 2023) that share a key head attend as one longer query, so that
    no key is copied. softcap: scores are bounded by ``cap tanh(score / cap)`` (Gemma 2); s_aux: a
    learned score for attending to nothing (gpt-oss). Raises NotImplementedError for anything else.
    """
    if unknown := sorted(k for k, v in kwargs.items() if v is not None and k not in HARMLESS):
        raise NotImplementedError(f"attention with {', '.join(unknown)}")
    aim: Aim = _current.aim
    if aim.give_way is not None and aim.give_way():
        raise InterruptedPassError
    window = sliding_window or _window(module)
    packed = query[0].transpose(0, 1)  # [tokens, heads, width]
    _, heads, width = packed.shape
    kv_heads = key.shape[1]
    groups = heads // kv_heads
    extra = _Extra(scaling if scaling is not None else width**-0.5, softcap, s_aux)
    results = []
    if aim.singles:
        count = len(aim.singles)
        own = packed[:count].reshape(count, kv_heads, groups, width)
        if aim.order is not None:
            spread = own.new_zeros(aim.high - aim.low, kv_heads, groups, width)
            spread[aim.order] = own
            own = spread
        rows = slice(aim.low, aim.high)
        mask = aim.single_mask(window, query.dtype)
        found = extra.attend(own, key[rows, :, : aim.visible], value[rows, :, : aim.visible], mask)
        if aim.order is not None:
            found = found[aim.order]
        results.append(found.reshape(count, heads, -1))
    at = len(aim.singles)
    for index, (chosen, start, count) in enumerate(aim.chunks):
        n, stop = len(chosen), start + count
        own = packed[at : at + n * count].view(n, count, heads, width).transpose(1, 2)
        own = own.reshape(n, kv_heads, groups * count, width)
        mask = aim.chunk_mask(index, window, groups, query.dtype)
        found = extra.attend(own, key[chosen, :, :stop], value[chosen, :, :stop], mask)
        results.append(found.view(n, heads, count, -1).transpose(1, 2).reshape(n * count, heads, -1))
        at += n * count
    together = results[0] if len(results) == 1 else torch.cat(results)
    return together[None], None


class _Extra:
    """One layer's way from scores to weights."""

    def __init__(self, scaling: float, softcap: float | None, sinks: Tensor | None) -> None:
        self.scaling, self.softcap, self.sinks = scaling, softcap, sinks

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """[rows, kv heads, n, width] of queries to the same of results; ``n`` holds the groups."""
        if self.softcap is None and self.sinks is None:
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scaling)
        scores = query @ key.transpose(2, 3) * self.scaling
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        scores = scores + mask
        if self.sinks is not None:
            rows, kv_heads, n, _ = scores.shape
            groups = self.sinks.numel() // kv_heads
            sink = self.sinks.view(1, kv_heads, groups, 1).repeat_interleave(n // groups, 2)
            scores = torch.cat([scores, sink.expand(rows, -1, -1, -1).to(scores)], -1)
        weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
        return weights[..., : key.shape[2]] @ value


def _window(module: nn.Module) -> int | None:
    # Most sliding layers say so themselves; those that leave it to the mask are found by their kind.
    config: Any = getattr(module, "config", None)
    kinds = getattr(config, "layer_types", None)
    index = getattr(module, "layer_idx", None)
    if not kinds or index is None or kinds[index] != "sliding_attention":
        return None
    return int(config.sliding_window)


ALL_ATTENTION_FUNCTIONS.register(NAME, slot_attention)
