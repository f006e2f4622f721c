"""An aligned model as a folder, with the permutations that made it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from compress.alignment.align import Alignment
from compress.alignment.architectures import architecture, sizes
from compress.alignment.permutations import Permutations, apply_one
from compress.errors import InputError
from compress.parameters import read_config
from compress.sources import COMPANIONS
from compress.staging import publish, refuse_existing, staged
from compress.tensorfiles import hash_tensors, open_tensors, save

FACTS = "alignment.json"
INDEX = "model.safetensors.index.json"


def write_aligned(alignment: Alignment, output: Path) -> None:
    """Write the aligned copy of the model as a Hugging Face folder: shards, dtypes, configuration and
    tokenizer as they are, and ``alignment.json``, which holds the permutations and what they were chosen by.

    One shard is held in memory. Raises InputError when ``output`` exists.
    """
    refuse_existing(output)
    config = read_config(str(alignment.model))
    tensors, family = open_tensors(alignment.model), architecture(config)

    with staged(output) as folder:
        for pattern in ("config.json", *COMPANIONS):
            for path in alignment.model.glob(pattern):
                if path.is_file():
                    shutil.copyfile(path, folder / path.name)
        for shard in sorted(set(tensors.files.values())):
            names = [name for name, path in tensors.files.items() if path == shard]
            reordered = {
                name: apply_one(alignment.permutations, name, tensors.read(name), family) for name in names
            }
            save(reordered, folder / shard.name)
            publish(folder / shard.name)
        if not (folder / "model.safetensors").is_file():
            shutil.copyfile(alignment.model / INDEX, folder / INDEX)
        (folder / FACTS).write_text(json.dumps(_facts(alignment)) + "\n")


def read_permutations(folder: Path) -> Permutations:
    """The permutations that made the aligned model of ``folder``.

    Raises InputError when its ``alignment.json`` is missing or holds no permutations of this model's units.
    """
    path = folder / FACTS
    try:
        stored = json.loads(path.read_text())["permutations"].items()
        found = {space: torch.tensor(order, dtype=torch.long) for space, order in stored}
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read as the record of an alignment; align again") from error
    config = read_config(str(folder))
    architecture(config)
    units = sizes(config).spaces()
    for space, order in found.items():
        if space not in units or not torch.equal(order.sort().values, torch.arange(units[space])):
            raise InputError(f"{path}: {space!r} is no permutation of units of this model; align again")
    return found


def _facts(alignment: Alignment) -> dict[str, object]:
    losses = alignment.losses
    return {
        "reference": {"name": alignment.reference.resolve().name, "sha256": _sha256(alignment.reference)},
        "model": {"name": alignment.model.resolve().name, "sha256": _sha256(alignment.model)},
        "parts": list(alignment.parts),
        "chosen": list(alignment.chosen),
        "loss": {"reference": losses.reference, "model": losses.model},
        "midpoints": [
            {"parts": list(choice), "loss": loss, "barrier": losses.barrier(choice)}
            for choice, loss in losses.midpoints.items()
        ],
        "permutations": {space: order.tolist() for space, order in alignment.permutations.items()},
    }


def _sha256(folder: Path) -> str:
    tensors = open_tensors(folder)
    return hash_tensors((name, tensors.read(name)) for name in sorted(tensors.files))
