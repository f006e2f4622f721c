"""Gathering Gram matrices: a fine-tune run over prompts, layer by layer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from compress.checkpoints import Checkpoint
from compress.finetunes import Finetune, finetuned_weight
from compress.gatherfisher import gather_fisher
from compress.grams import FACTS, GramFacts, packed
from compress.progress import Progress
from compress.staging import staged
from compress.streamed import Batch, batches, streamed_decoder
from compress.tensorfiles import open_tensors, save


def gather_grams(
    finetune: Finetune,
    base: Checkpoint,
    sequences: Sequence[Sequence[int]],
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    stage: str,
    progress: Progress,
) -> GramFacts:
    """Run ``finetune`` over token ids and write the Gram matrices of its linear layers to ``folder``.

    Padding is left out. One decoder layer's weights and matrices are in memory at a time. Raises InputError
    where there is nothing to run over.
    """
    made = batches(sequences)
    with (
        staged(folder) as fresh,
        streamed_decoder(base.config, lambda name: finetuned_weight(finetune, name, base), device) as decoder,
    ):
        taps = {name: _taps(name, layer) for name, layer in decoder.layers.items()}
        observer = _Observer(taps)
        decoder.run(Batch(made[0].ids[:1], made[0].mask[:1]))
        readers = observer.close()
        parts = fresh / "parts"
        parts.mkdir()
        collector = _Collector(decoder.layers, taps, readers, parts)
        for done, batch in enumerate(made):
            collector.mask = batch.mask.reshape(-1).bool().to(device)
            decoder.run(batch)
            progress(stage, done + 1, len(made))
        collector.close()
        _assemble(parts, fresh, list(decoder.layers))
        facts = GramFacts(
            model_sha256=finetune.sha256(),
            prompts=len(sequences),
            tokens=sum(map(len, sequences)),
            readers=readers,
        )
        (fresh / FACTS).write_text(facts.model_dump_json(indent=2) + "\n")
    return facts


GATHERERS = {"grams": gather_grams, "fisher": gather_fisher}


def gather(
    data: Literal["grams", "fisher"],
    finetunes: Mapping[str, Finetune],
    base: Checkpoint,
    calibration: Mapping[str, Sequence[Sequence[int]]],
    folder: Path,
    progress: Progress,
) -> Path:
    """What a merge method needs of every fine-tune, in ``folder``/TASK; tasks that are there already stay.

    calibration: token ids of every task's prompts. Returns ``folder``.
    """
    for task, finetune in finetunes.items():
        if not (folder / task).is_dir():
            GATHERERS[data](
                finetune, base, calibration[task], folder / task, stage=f"{data} {task}", progress=progress
            )
    return folder


def _taps(prefix: str, layer: nn.Module) -> dict[str, nn.Module]:
    return {
        f"{prefix}.{name}": module
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }


class _Observer:
    """Notes which modules of a layer are given the very same tensor: their Gram matrix is one."""

    def __init__(self, taps: dict[str, dict[str, nn.Module]]) -> None:
        self._seen: list[tuple[str, Tensor]] = []
        self._handles = [
            module.register_forward_pre_hook(self._note(name))
            for modules in taps.values()
            for name, module in modules.items()
        ]

    def _note(self, name: str) -> Any:
        # The tensor itself is kept: a freed one's place would be given to the next.
        return lambda module, inputs: self._seen.append((name, inputs[0]))

    def close(self) -> dict[str, list[str]]:
        """First reader -> all readers of one input."""
        for handle in self._handles:
            handle.remove()
        readers: dict[str, list[str]] = {}
        first: list[tuple[str, Tensor]] = []
        for name, tensor in self._seen:
            known = next((leader for leader, other in first if other is tensor), None)
            if known is None:
                first.append((name, tensor))
            readers.setdefault(known or name, []).append(name)
        return readers


class _Collector:
    """Adds each batch's products up, layer by layer, in files below ``folder``."""

    def __init__(
        self,
        layers: dict[str, nn.Module],
        taps: dict[str, dict[str, nn.Module]],
        readers: dict[str, list[str]],
        folder: Path,
    ) -> None:
        self.mask: Tensor
        self._sums: dict[str, Tensor] = {}
        self._folder = folder
        self._handles = [
            module.register_forward_pre_hook(self._tap(name))
            for modules in taps.values()
            for name, module in modules.items()
            if name in readers
        ]
        self._handles += [
            layer.register_forward_hook(self._spill(number)) for number, layer in enumerate(layers.values())
        ]

    def _tap(self, name: str) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].reshape(-1, inputs[0].shape[-1])[self.mask]
            self._sums[name] = packed((rows.T @ rows).float()).cpu()

        return add

    def _spill(self, number: int) -> Any:
        def spill(*_: Any) -> None:
            path = self._folder / f"{number:05d}.safetensors"
            if path.is_file():
                earlier = open_tensors(self._folder, path.stem)
                for name in self._sums:
                    self._sums[name] += earlier.read(name)
            save(self._sums, path)
            self._sums = {}

        return spill

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def _assemble(parts: Path, folder: Path, layers: list[str]) -> None:
    """The layers' files as shards of one set, which ``open_tensors`` reads."""
    weight_map: dict[str, str] = {}
    for number in range(len(layers)):
        name = f"grams-{number + 1:05d}-of-{len(layers):05d}.safetensors"
        (parts / f"{number:05d}.safetensors").rename(folder / name)
        weight_map |= dict.fromkeys(open_tensors(folder, name.removesuffix(".safetensors")).files, name)
    parts.rmdir()
    (folder / "grams.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map}, indent=2) + "\n"
    )
