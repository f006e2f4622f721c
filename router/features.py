"""Token ids to one vector a prompt: the hidden state after a few decoder layers, pooled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from compress.errors import InputError

Progress = Callable[[int, int], None]


class _Captured(Exception):
    """Carries the hidden state out of a forward that need not run any further."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


@dataclass(frozen=True)
class HiddenStateFeatures:
    """Pooled hidden state of a causal decoder, after ``layer`` of its decoder layers.

    layer:      decoder layers that are run, 1 to all of them; None = a third of them, rounded.
    pooling:    "mean" over the prompt's tokens, or the "last" token alone; of states divided by
                their root mean square, for a few tokens, the first above all, may have states a
                thousand times as large whatever the text (Sun et al. 2024, Massive Activations).
    max_tokens: of a longer prompt only this many last tokens are seen.
    batch_size: prompts in one forward; batches hold prompts of similar length.
    """

    layer: int | None = None
    pooling: Literal["mean", "last"] = "mean"
    max_tokens: int = 256
    batch_size: int = 16

    def depth(self, model: nn.Module) -> int:
        """How many decoder layers of ``model`` are run. InputError if it has not that many."""
        total = len(decoder_layers(model))
        if self.layer is None:
            return max(1, round(total / 3))
        if not 1 <= self.layer <= total:
            raise InputError(
                f"router layer {self.layer} does not exist in this model: choose one from 1 to {total}"
            )
        return self.layer

    def extract(
        self,
        model: nn.Module,
        batch: Sequence[Sequence[int]],
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Features of token id lists, float32 ``[len(batch), hidden]``, in the order given.

        A row does not depend on its neighbours beyond rounding. ``progress`` is called with
        (prompts done, prompts in all). The forward ends at the last layer needed, so that
        neither deeper layers nor the language-model head cost anything. The model has to be in
        eval mode, since dropout would make features random. Raises InputError for an empty token
        list, a layer that does not exist, or a model in training mode.
        """
        layer = decoder_layers(model)[self.depth(model) - 1]
        if model.training:
            raise InputError("the router's model is in training mode: call model.eval() first")
        rows = [list(row[-self._window(model) :]) for row in batch]
        for index, row in enumerate(rows):
            if not row:
                raise InputError(f"prompt {index + 1} of {len(rows)} has no tokens: nothing to route")
        if not rows:
            return np.zeros((0, _text_config(model).hidden_size), dtype=np.float32)
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        pooled: dict[int, np.ndarray] = {}
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            vectors = self._forward(model, layer, [rows[index] for index in chosen])
            pooled.update(zip(chosen, vectors, strict=True))
            if progress is not None:
                progress(len(pooled), len(rows))
        return np.stack([pooled[index] for index in range(len(rows))])

    def _window(self, model: nn.Module) -> int:
        # Learned position tables end; a longer prompt would index beyond them.
        positions = getattr(_text_config(model), "max_position_embeddings", None)
        return min(self.max_tokens, positions or self.max_tokens)

    def _forward(self, model: nn.Module, layer: nn.Module, rows: list[list[int]]) -> np.ndarray:
        device = next(model.parameters()).device
        lengths = torch.tensor([len(row) for row in rows])
        width = int(lengths.max())
        # Padding stands right of the text, where a causal model cannot see it: any valid id will do.
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.arange(width)[None, :] < lengths[:, None]
        with torch.no_grad(), _ending_at(layer):
            try:
                model(
                    input_ids=ids.to(device),
                    attention_mask=mask.long().to(device),
                    use_cache=False,
                )
            except _Captured as captured:
                states = captured.hidden.float()
            else:
                raise RuntimeError("the forward ended without reaching the router's layer")
        states = nn.functional.rms_norm(states, states.shape[-1:], eps=1e-12)
        mask, lengths = mask.to(states.device), lengths.to(states.device)
        if self.pooling == "last":
            vectors = states[torch.arange(len(rows), device=states.device), lengths - 1]
        else:
            # Selecting before summing: a non-finite value in the padding must not leak as 0 * inf.
            kept = states.masked_fill(~mask[:, :, None], 0.0)
            vectors = kept.sum(dim=1) / lengths[:, None]
        return vectors.cpu().numpy()


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder's stack of layers: its outermost ModuleList of ``num_hidden_layers`` members.

    Raises InputError if the model has none.
    """
    count = getattr(_text_config(model), "num_hidden_layers", None)
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


def _text_config(model: nn.Module) -> Any:
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
