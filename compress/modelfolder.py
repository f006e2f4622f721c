"""Writing a plain model folder: weights in place, and what stands beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from compress.checkpoints import Checkpoint
from compress.shards import SHARD_BYTES, ShardWriter
from compress.sources import COMPANIONS


def copy_companions(source: Path, folder: Path, dtype: torch.dtype) -> None:
    """Copy what makes a model folder beside the weights: config, tokenizer, chat template."""
    for pattern in COMPANIONS:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
    config = json.loads((source / "config.json").read_text())
    for key in ("torch_dtype", "_name_or_path", "quantization_config"):
        config.pop(key, None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def model_writer(
    base: Checkpoint,
    folder: Path,
    dtype: torch.dtype,
    shard_bytes: int = SHARD_BYTES,
    notes: Path | None = None,
) -> ShardWriter:
    """A writer of a checkpoint with the parameters of ``base`` into ``folder``, beside its companions."""
    shapes = {name: parameter.shape for name, parameter in base.table.items()}
    writer = ShardWriter(folder, shapes, dtype, shard_bytes, notes)
    copy_companions(base.folder, folder, dtype)
    return writer
