"""Ordinary models beside a bundle: its base, its static merge, and fine-tunes as their owners serve them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress.adapters import EXTRA, is_adapter
from compress.bundle import Bundle
from compress.checkpoints import Checkpoint
from compress.codes import QUANTISED
from compress.compose import factor_weights, load_composed
from compress.finetunes import apply, open_finetune
from compress.loading import load_model, load_tokenizer
from serve.engine import Engine
from serve.mixture import MixtureModel
from serve.settings import EngineSettings


def load(folder: Path, settings: EngineSettings) -> Any:
    """The model in ``folder``."""
    return load_model(folder, settings.torch_dtype()).to(settings.torch_device())


def load_static(path: Path, settings: EngineSettings, scaling: float | None = None) -> Any:
    """The shared base of a bundle; with ``scaling``, task arithmetic of its experts with that one instead."""
    bundle = Bundle.open(path)
    weights = factor_weights({}, bundle.carried, bundle.scalings)
    if scaling is not None:
        weights = [scaling if task in bundle.tasks else 0.0 for task in bundle.carried]
    return load_composed(bundle, weights, device=settings.torch_device(), dtype=settings.torch_dtype())


def load_finetune(folder: Path, base: Path, settings: EngineSettings) -> Any:
    """A fine-tune as its owner would serve it: loaded by transformers, an adapter merged by PEFT; an
    expert that has more beside its adapter, which PEFT does not read, is added to the base."""
    if not is_adapter(folder):
        return load(folder, settings)
    if any((folder / f"{beside}.safetensors").is_file() for beside in (EXTRA, QUANTISED)):
        opened = Checkpoint.open(base)
        return apply(open_finetune(folder, opened), load(base, settings), opened)
    from peft import PeftModel

    return PeftModel.from_pretrained(load(base, settings), folder).merge_and_unload()


def launch(make: Callable[[], Any], tokenizer_folder: Path, settings: EngineSettings) -> Engine:
    """An engine that serves the one model that ``make`` gives."""

    def engine() -> Engine:
        return Engine(MixtureModel(make()), load_tokenizer(tokenizer_folder), settings)

    return Engine.launch(engine, settings.threads)


@contextmanager
def plain_engine(
    make: Callable[[], Any], tokenizer_folder: Path, settings: EngineSettings
) -> Iterator[Engine]:
    """``launch``, stopped when the block ends."""
    engine = launch(make, tokenizer_folder, settings)
    try:
        yield engine
    finally:
        engine.stop()
        del engine
        gc.collect()
