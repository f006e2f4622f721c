"""Recipe -> bundle, tensor by tensor: merge, subtract, compress, write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch

from compress.bundle import CARD, BaseFacts, Manifest, SharedFacts, library_versions, seal
from compress.card import merge_card
from compress.checkpoints import Checkpoint
from compress.decompose import check_budget
from compress.errors import InputError
from compress.exclusive import write_experts
from compress.inputs import Inputs, open_inputs
from compress.kinshipreport import kinship_report
from compress.merge import copy_weights
from compress.merger import Calibration, make_merger
from compress.modelfolder import model_writer
from compress.progress import Progress
from compress.recipe import SHARED, Recipe, float_dtype
from compress.reference import choose_reference
from compress.sharedelta import write_shared_delta
from compress.staging import hard_copy
from compress.workspace import Workspace

Reference = Literal["shared", "pretrained"]


def build(
    recipe: Recipe,
    folder: Path,
    work: Workspace,
    *,
    relative_to: Path | None = None,
    calibration: Calibration | None = None,
    progress: Progress,
) -> tuple[Manifest, dict[str, Any]]:
    """Build the bundle of ``recipe`` in the empty ``folder`` and seal it; the router comes later.

    What ``work`` holds from an interrupted build is not made again. ``calibration``: token ids of every
    task's prompts, for methods that need some. Returns the manifest and the report: what was kept and lost,
    per task and per matrix. Memory stays near a stretch of every input while merging, and one expert's
    factors after it. Raises InputError for inputs that cannot be used.
    """
    inputs = open_inputs(recipe, relative_to)
    coefficients = recipe.shared.coefficients(recipe.tasks)
    dtype: torch.dtype = getattr(torch, recipe.output.dtype)
    budget = recipe.exclusive.bytes(inputs.base.parameters)
    if budget is not None:
        budget -= inputs.base.parameters * dtype.itemsize
        check_budget(budget)
    reference = _reference(recipe, inputs, coefficients, budget)
    merger = make_merger(recipe.shared, inputs, work, relative_to, calibration, progress)
    factor_dtype = float_dtype(recipe.exclusive, recipe.output.dtype)
    writer = model_writer(inputs.base, work.folder / "base", dtype, notes=work.folder / "base.finished")
    if reference == "shared":
        merger.write(writer, "base", progress)
    else:
        copy_weights(inputs.base, writer, "base", progress)
    (folder / "base").mkdir()
    hard_copy(work.folder / "base", folder / "base")
    card = merge_card(
        "Base of a twinserve bundle", recipe, inputs.folders, inputs.hashes, merged=reference == "shared"
    )
    (folder / "base" / CARD).write_text(card)
    # Experts are subtracted from the rounded weights, so that rounding is not lost twice.
    written = Checkpoint.open(folder / "base")
    report: dict[str, Any] = {"reference": reference, "notes": inputs.notes(), "experts": {}}
    made = write_experts(
        recipe.experts,
        inputs.finetunes,
        inputs.base,
        written,
        recipe.exclusive,
        factor_dtype,
        budget,
        folder,
        work,
        progress,
    )
    facts = {task: fact for task, (fact, _) in made.items()}
    report["experts"] = {task: {**fact.model_dump(), **rows} for task, (fact, rows) in made.items()}
    weights = coefficients or dict.fromkeys(recipe.tasks, 0.0)
    retired: list[str] = []
    if reference == "pretrained" and coefficients is None:
        facts[SHARED], rows = write_shared_delta(merger, written, folder, factor_dtype, work, progress)
        report["experts"][SHARED] = {**facts[SHARED].model_dump(), **rows}
        weights, retired = {**weights, SHARED: 1.0}, [SHARED]
    if reference == "pretrained":
        (folder / "shared").mkdir(exist_ok=True)
        shared = {"method": recipe.shared.method, "scalings": weights}
        (folder / "shared" / "shared.json").write_text(json.dumps(shared, indent=2) + "\n")
    base_facts = BaseFacts(
        source=recipe.base,
        sha256=inputs.base_sha256,
        parameters=inputs.base.parameters,
        dtype=recipe.output.dtype,
    )
    manifest = Manifest(
        base=base_facts,
        reference=reference,
        shared=SharedFacts(
            method=recipe.shared.method, weights=weights, parameters=recipe.shared.parameters.model_dump()
        ),
        experts=facts,
        recipe=recipe.model_dump(),
        versions=library_versions(),
        retired=retired,
    )
    report["kinship"] = kinship_report(folder, manifest, inputs.base, inputs.finetunes, progress)
    seal(folder, manifest)
    return manifest, report


def _reference(
    recipe: Recipe, inputs: Inputs, coefficients: dict[str, float] | None, budget: int | None
) -> Reference:
    """The model that experts are deltas of; raises InputError where the recipe's choice would give adapters
    ranks that are not their own."""
    wanted, adapter = recipe.exclusive.reference, inputs.first_adapter
    if wanted == "shared" and adapter is not None:
        raise InputError(
            f"exclusive.reference: 'shared' would truncate the adapter of task {adapter!r}, since its "
            "delta from a merge has the ranks of all inputs together; use 'pretrained' or 'auto'"
        )
    if wanted != "auto":
        return wanted
    if adapter is not None:
        return "pretrained"
    if coefficients is None:
        # Over the pretrained base such a merge would need weights of its own, as many as the base has.
        return "shared"
    return choose_reference(inputs.base, inputs.finetunes, coefficients, recipe.exclusive, budget)
