"""The first layers of a decoder, run over turns of any length, and no more of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.errors import InputError
from router.features import Progress
from router.query import Turn, clip

# Turns in one forward; batches hold turns of similar length.
BATCH = 16
Read = Callable[[Tensor, Tensor], Tensor]


class _Captured(Exception):
    """Carries the hidden state out of a forward that need not run any further."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def depth_of(model: nn.Module, layer: int | None) -> int:
    """``layer``, or for None a sixth of the decoder's layers. InputError if it has not that many."""
    total = len(decoder_layers(model))
    if layer is None:
        return max(1, round(total / 6))
    if not 1 <= layer <= total:
        raise InputError(f"router layer {layer} does not exist in this model: choose one from 1 to {total}")
    return layer


def run_layers(
    model: nn.Module, depth: int, turns: Sequence[Turn], read: Read, progress: Progress | None = None
) -> list[np.ndarray]:
    """``read(states, mask)`` of the state after ``depth`` layers, a row a turn, in the order given.

    states [n, length, width], float32; mask [n, length] is false on padding, which stands behind the text.
    The forward ends at the last layer needed, so that neither deeper layers nor the language-model head
    cost anything. The model has to be in eval mode, since dropout would make features random. Raises
    InputError for a turn without tokens, a layer that does not exist, or a model in training mode.
    """
    layer = decoder_layers(model)[depth - 1]
    if model.training:
        raise InputError("the router's model is in training mode: call model.eval() first")
    # Learned position tables end; a longer prompt would index beyond them.
    positions = getattr(text_config(model), "max_position_embeddings", None)
    rows = [clip(list(turn.ids), positions or len(turn.ids)) for turn in turns]
    for index, row in enumerate(rows):
        if not row:
            raise InputError(f"prompt {index + 1} of {len(rows)} has no tokens: nothing to route")
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    found: dict[int, np.ndarray] = {}
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        vectors = read(*_forward(model, layer, [rows[index] for index in chosen]))
        found.update(zip(chosen, vectors.cpu().numpy(), strict=True))
        if progress is not None:
            progress(len(found), len(rows))
    return [found[index] for index in range(len(rows))]


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of states [n, length, width] that are no padding, [n, width]."""
    # Selecting before summing: a non-finite value in the padding must not leak as 0 * inf.
    kept = states.masked_fill(~mask[:, :, None], 0.0)
    return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True)


def _forward(model: nn.Module, layer: nn.Module, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    device = next(model.parameters()).device
    lengths = torch.tensor([len(row) for row in rows])
    width = int(lengths.max())
    # Padding stands right of the text, where a causal model cannot see it: any valid id will do.
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.arange(width)[None, :] < lengths[:, None]
    with torch.no_grad(), _ending_at(layer):
        try:
            model(input_ids=ids.to(device), attention_mask=mask.long().to(device), use_cache=False)
        except _Captured as captured:
            states = captured.hidden.float()
        else:
            raise RuntimeError("the forward ended without reaching the router's layer")
    return states, mask.to(states.device)


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder's stack of layers: its outermost ModuleList of ``num_hidden_layers`` members.

    Raises InputError if the model has none.
    """
    count = getattr(text_config(model), "num_hidden_layers", None)
    find = getattr(model, "get_decoder", None)
    decoder = find() if callable(find) else getattr(model, "base_model", model)
    stacks = [
        (name.count("."), module)
        for name, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not stacks:
        raise InputError(
            f"{type(model).__name__} has no list of {count} decoder layers: "
            "the router needs a causal decoder from transformers"
        )
    return min(stacks, key=lambda stack: stack[0])[1]


def text_config(model: nn.Module) -> Any:
    config = getattr(model, "config", None)
    if config is None:
        raise InputError(f"{type(model).__name__} is not a transformers model: it has no config")
    return config.get_text_config(decoder=True)


@contextmanager
def _ending_at(layer: nn.Module) -> Iterator[None]:
    owner = threading.get_ident()

    def capture(module: nn.Module, inputs: Any, output: Any) -> None:
        # The module is shared: a forward that another thread runs meanwhile must not be cut short.
        if threading.get_ident() == owner:
            raise _Captured(output[0] if isinstance(output, tuple) else output)

    handle = layer.register_forward_hook(capture)
    try:
        yield
    finally:
        handle.remove()
