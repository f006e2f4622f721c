"""A decoder whose weights come from disk when their layer runs, and go when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from compress.errors import InputError

BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Batch:
    """Prompts padded on the right. ids, mask: [prompts, length]; the mask is 1 where there is a token."""

    ids: Tensor
    mask: Tensor


class StreamedDecoder:
    """The body of a causal language model, without its head; ``layers`` maps names of its decoder layers to
    them. Use ``streamed_decoder``."""

    def __init__(self, model: Any, layers: dict[str, nn.Module], device: torch.device | str) -> None:
        self._model, self.layers, self._device = model, layers, device

    @torch.no_grad()
    def run(self, batch: Batch) -> None:
        """Run one batch through all layers, for the hooks that are on them."""
        body = self._model.base_model
        body(
            input_ids=batch.ids.to(self._device), attention_mask=batch.mask.to(self._device), use_cache=False
        )


@contextmanager
def streamed_decoder(
    config: PretrainedConfig, weight: Callable[[str], Tensor], device: torch.device | str
) -> Iterator[StreamedDecoder]:
    """The decoder of ``config`` in float32; ``weight(name)`` gives a parameter by its canonical name.

    Embeddings and final norm stay in memory; each decoder layer's weights only while it runs. Hooks on a
    layer's modules run while its weights are there. Raises InputError where the layers cannot be told.
    """
    with init_empty_weights(include_buffers=False):
        model: Any = AutoModelForCausalLM.from_config(config).eval()
    layers = _layers(model.base_model, config)
    names = {id(module): name for name, module in model.named_modules()}

    def fill(prefix: str, module: nn.Module, skip: Sequence[nn.Module] = ()) -> None:
        inside = {id(part) for layer in skip for part in layer.modules()}
        for name, part in module.named_modules():
            if id(part) in inside:
                continue
            for leaf in [leaf for leaf, _ in part.named_parameters(recurse=False)]:
                path = f"{name}.{leaf}" if name else leaf
                value = weight(f"{prefix}.{path}")
                set_module_tensor_to_device(module, path, device, value, dtype=torch.float32)

    def load(layer: nn.Module, *_: Any) -> None:
        fill(names[id(layer)], layer)

    def unload(layer: nn.Module, *_: Any) -> None:
        for name, _parameter in list(layer.named_parameters()):
            set_module_tensor_to_device(layer, name, "meta")

    fill(model.base_model_prefix, model.base_model, layers)
    _buffers_to(model, device)
    handles = []
    for layer in layers:
        handles.append(layer.register_forward_pre_hook(load))
        handles.append(layer.register_forward_hook(unload))
    try:
        yield StreamedDecoder(model, {names[id(layer)]: layer for layer in layers}, device)
    finally:
        for handle in handles:
            handle.remove()


def refuse_empty(sequences: Sequence[Sequence[int]]) -> None:
    """Raises InputError where there are no sequences of token ids, or an empty one."""
    if not sequences or not all(sequences):
        raise InputError("calibration: there are no prompts, or an empty one among them")


def batches(sequences: Sequence[Sequence[int]], padding: int = 0) -> list[Batch]:
    """Token ids in batches of at most BATCH_TOKENS with their padding, sequences of like lengths together.

    Raises InputError where there are none, or an empty one.
    """
    refuse_empty(sequences)
    made: list[Batch] = []
    group: list[Sequence[int]] = []
    for sequence in sorted(sequences, key=len):
        if group and (len(group) + 1) * len(sequence) > BATCH_TOKENS:
            made.append(_batch(group, padding))
            group = []
        group.append(sequence)
    return [*made, _batch(group, padding)]


def _batch(group: Iterable[Sequence[int]], padding: int) -> Batch:
    rows = [torch.tensor(sequence) for sequence in group]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return Batch(ids, mask)


def _layers(body: nn.Module, config: PretrainedConfig) -> list[nn.Module]:
    for module in body.modules():
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers:
            return list(module)
    raise InputError(f"model type {config.model_type!r}: its decoder layers cannot be told apart")


def _buffers_to(model: nn.Module, device: torch.device | str) -> None:
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
