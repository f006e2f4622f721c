"""One expert more or less in a bundle that exists, without the other checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from compress.adapters import Adapter
from compress.bundle import Manifest
from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.exclusive import SHARING, kind_of, write_experts
from compress.finetunes import open_finetune
from compress.progress import Progress
from compress.recipe import Recipe, SharedRecipe, float_dtype, validation_sentence
from compress.sources import resolve
from compress.workspace import Workspace


def add_expert(
    folder: Path, manifest: Manifest, task: str, checkpoint: str, progress: Progress
) -> tuple[Manifest, dict[str, Any]]:
    """Write one expert more into the bundle in ``folder``; returns the new manifest and report rows.

    The delta is against base/, as the others' are. lambda is 0: the shared base, and with it what every
    other expert answers, stays. Raises InputError for a task that is there, a checkpoint that does not
    fit, or an adapter where experts are deltas of the shared base.
    """
    if task in manifest.experts:
        raise InputError(
            f"{task!r} is already an expert of this bundle; "
            + ("its name is kept for its factors" if task in manifest.retired else "remove it first")
        )
    content = {
        **manifest.recipe,
        "experts": [*manifest.recipe["experts"], {"task": task, "checkpoint": checkpoint}],
        # Checked as a recipe, whose settings name all tasks; what was merged is in the manifest.
        "shared": {},
    }
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{task}={checkpoint}: {validation_sentence(error, Recipe)}") from error
    base = Checkpoint.open(folder / "base")
    finetune = open_finetune(resolve(checkpoint), base, manifest.base.sha256)
    if isinstance(finetune, Adapter) and manifest.reference == "shared":
        raise InputError(
            f"{checkpoint}: an adapter is a delta of the pretrained base, and this bundle's experts are "
            "deltas of the shared one; give the full checkpoint, or build the bundle again with the adapter"
        )
    weights = {**manifest.shared.weights, task: 0.0}
    kind = kind_of(finetune, recipe.exclusive)
    sharing = [facts for facts in manifest.experts.values() if facts.kind in SHARING]
    alike = [facts.bytes for facts in [f for f in sharing if f.kind == kind] or sharing]
    budget = recipe.exclusive.bytes(manifest.base.parameters)
    if kind not in SHARING:
        budget = None
    elif budget is not None and alike:
        # The recipe's size was for those that are there: the new one gets what they have on average, those
        # of its kind where there are some.
        budget = sum(alike) // len(alike)
    with TemporaryDirectory(dir=folder.parent, prefix=".add-") as work:
        made = write_experts(
            [recipe.experts[-1]],
            {task: finetune},
            base,
            base,
            recipe.exclusive,
            float_dtype(recipe.exclusive, recipe.output.dtype),
            budget,
            folder,
            Workspace(Path(work)),
            progress,
        )
    facts, rows = made[task]
    grown = manifest.model_copy(
        update={
            "experts": {**manifest.experts, task: facts},
            "shared": manifest.shared.model_copy(update={"weights": weights}),
            "recipe": {**manifest.recipe, "experts": content["experts"]},
        }
    )
    return grown, {**facts.model_dump(), **rows}


def remerged(folder: Path, manifest: Manifest) -> Manifest:
    """The shared base merged anew from all experts that answer, by the recipe's own scaling.

    Raises InputError where that needs the checkpoints: experts are deltas of the shared base.
    """
    if manifest.reference == "shared":
        raise InputError(
            "its experts are deltas of the shared base, which can be merged anew only from the checkpoints: "
            "build the bundle again"
        )
    scaling = manifest.recipe["shared"].get("scaling")
    if isinstance(scaling, dict):
        raise InputError(
            "the recipe gives a scaling for every task, and none for the new one: build it again"
        )
    recipe = SharedRecipe.model_validate(manifest.recipe["shared"])
    scalings = recipe.coefficients(manifest.tasks)
    if scalings is None:
        raise InputError(
            f"its shared base was merged by {recipe.method}, which is no sum of the experts: build it again"
        )
    weights = {**dict.fromkeys(manifest.experts, 0.0), **scalings}
    file = folder / "shared" / "shared.json"
    file.unlink()
    file.write_text(json.dumps({"method": recipe.method, "scalings": weights}, indent=2) + "\n")
    shared = manifest.shared.model_copy(update={"weights": weights})
    return manifest.model_copy(update={"shared": shared})


def remove_expert(folder: Path, manifest: Manifest, task: str) -> Manifest:
    """Make one expert unroutable; returns the new manifest.

    Its files go, unless the shared base is reached through its factors (its lambda is not 0): then they
    stay, so that no other answer moves. Raises InputError for an unknown task, or the only one.
    """
    if task not in manifest.tasks:
        raise InputError(f"{task!r} is no expert of this bundle; it has {', '.join(manifest.tasks)}")
    if len(manifest.tasks) == 1:
        raise InputError(f"{task!r} is the bundle's only expert; without one it is just its base")
    if manifest.reference == "pretrained" and manifest.shared.weights[task] != 0.0:
        return manifest.model_copy(update={"retired": [*manifest.retired, task]})
    shutil.rmtree(folder / "experts" / task)
    experts = {name: facts for name, facts in manifest.experts.items() if name != task}
    weights = {name: weight for name, weight in manifest.shared.weights.items() if name != task}
    shared = manifest.shared.model_copy(update={"weights": weights})
    named = [expert for expert in manifest.recipe["experts"] if expert["task"] != task]
    recipe = {**manifest.recipe, "experts": named}
    return manifest.model_copy(update={"experts": experts, "shared": shared, "recipe": recipe})
