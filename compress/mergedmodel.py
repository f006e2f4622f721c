"""A merge as a plain model folder, without experts."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from compress.bundle import library_versions
from compress.card import merge_card
from compress.inputs import open_inputs
from compress.merger import Calibration, make_merger
from compress.modelfolder import model_writer
from compress.progress import Progress
from compress.recipe import Recipe
from compress.shards import SHARD_BYTES
from compress.staging import hard_copy
from compress.workspace import Workspace


def merge_model(
    recipe: Recipe,
    folder: Path,
    work: Workspace,
    *,
    relative_to: Path | None = None,
    calibration: Calibration | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress,
) -> list[str]:
    """Merge the recipe's fine-tunes into the empty ``folder``: a Hugging Face model with a card.

    What the recipe says of experts' compression and of a router is not looked at. Tensors that ``work`` has
    finished are not merged again. Returns notes on odd inputs. Raises InputError for inputs that cannot be
    used.
    """
    inputs = open_inputs(recipe, relative_to)
    merger = make_merger(recipe.shared, inputs, work, relative_to, calibration, progress)
    made = work.folder / "model"
    dtype: torch.dtype = getattr(torch, recipe.output.dtype)
    writer = model_writer(inputs.base, made, dtype, shard_bytes, work.folder / "model.finished")
    merger.write(writer, "merge", progress)
    hard_copy(made, folder)
    facts = {
        "recipe": recipe.model_dump(exclude={"exclusive", "router"}),
        "sha256": inputs.hashes,
        "versions": library_versions(),
    }
    (folder / "merge.json").write_text(json.dumps(facts, indent=2) + "\n")
    card = merge_card("A merged model", recipe, inputs.folders, inputs.hashes)
    (folder / "README.md").write_text(card)
    return inputs.notes()
