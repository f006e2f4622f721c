"""Recipe -> bundle, tensor by tensor: merge, subtract, compress, write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.adapters import Adapter
from compress.bundle import BaseFacts, ExpertFacts, Manifest, SharedFacts, library_versions, seal
from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.experts import write_expert
from compress.finetunes import Finetune, open_finetune, task_vector
from compress.loading import load_tokenizer
from compress.lowrank import LowRank, truncate
from compress.merging.method import merge
from compress.recipe import ExclusiveRecipe, ExpertRecipe, Recipe
from compress.reference import choose_reference
from compress.sources import COMPANIONS, resolve
from compress.tensorfiles import write_sharded

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Inputs:
    """The opened inputs of a build."""

    base: Checkpoint
    base_sha256: str
    finetunes: dict[str, Finetune]
    coefficients: dict[str, float]


def build(
    recipe: Recipe, folder: Path, *, relative_to: Path | None = None, progress: Progress
) -> tuple[Manifest, dict[str, Any]]:
    """Build the bundle of ``recipe`` in the empty ``folder`` and seal it; the router comes later.

    Returns the manifest and the report: what was kept and lost, per task and per matrix.
    Memory stays near one checkpoint: one tensor of each input at a time, one shard of the base and
    one expert's factors. Raises InputError for inputs that cannot be used.
    """
    inputs = open_inputs(recipe, relative_to)
    reference = recipe.exclusive.reference
    if reference == "auto":
        reference = choose_reference(inputs.base, inputs.finetunes, inputs.coefficients, recipe.exclusive)
    elif reference == "shared" and (task := _first_adapter(inputs)):
        raise InputError(
            f"exclusive.reference: 'shared' would truncate the adapter of task {task!r}; "
            "use 'pretrained' or 'auto', which carry adapters exactly"
        )
    dtype: torch.dtype = getattr(torch, recipe.output.dtype)
    written = write_base(inputs, folder / "base", reference, dtype, progress)
    written_sha256 = written.sha256()
    factor_dtype: torch.dtype = getattr(torch, recipe.exclusive.dtype or recipe.output.dtype)
    facts: dict[str, ExpertFacts] = {}
    report: dict[str, Any] = {"reference": reference, "experts": {}}
    for expert in recipe.experts:
        facts[expert.task], rows = write_one(
            expert, inputs, written, written_sha256, recipe.exclusive, folder, factor_dtype, progress
        )
        report["experts"][expert.task] = {**facts[expert.task].model_dump(), **rows}
    if reference == "pretrained":
        (folder / "shared").mkdir()
        shared = {"method": recipe.shared.method, "scalings": inputs.coefficients}
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
        shared=SharedFacts(method=recipe.shared.method, weights=inputs.coefficients),
        experts=facts,
        recipe=recipe.model_dump(),
        versions=library_versions(),
    )
    seal(folder, manifest)
    return manifest, report


def refuse_overlap(recipe: Recipe, output: Path, relative_to: Path | None = None) -> None:
    """Raises InputError when an input lies inside the output folder, which would be replaced."""
    target = output.resolve()
    for source in (recipe.base, *(expert.checkpoint for expert in recipe.experts)):
        for folder in (Path(source).expanduser(), (relative_to or Path()) / source):
            if folder.exists() and folder.resolve().is_relative_to(target):
                raise InputError(
                    f"{output}: the input {source} lies inside the output folder, which is replaced; "
                    "choose another output folder"
                )


def open_inputs(recipe: Recipe, relative_to: Path | None = None) -> Inputs:
    """Open base and fine-tunes and check that they belong together, before anything is written.

    Raises InputError naming the input that does not fit.
    """
    base = Checkpoint.open(resolve(recipe.base, relative_to))
    load_tokenizer(base.folder)
    finetunes: dict[str, Finetune] = {}
    for expert in recipe.experts:
        finetunes[expert.task] = open_finetune(resolve(expert.checkpoint, relative_to), base)
    return Inputs(base, base.sha256(), finetunes, recipe.shared.coefficients(recipe.tasks))


def write_base(
    inputs: Inputs, folder: Path, reference: str, dtype: torch.dtype, progress: Progress
) -> Checkpoint:
    """Write base/, the shared or the pretrained base, in ``dtype``, and open what was written.

    Experts are then subtracted from the rounded weights, so that rounding is not lost twice.
    """
    folder.mkdir()
    copy_companions(inputs.base.folder, folder, dtype)
    base = inputs.base

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for done, name in enumerate(base.table):
            weight = base.weight(name)
            if reference == "shared":
                vectors = (
                    (inputs.coefficients[task], tau)
                    for task, finetune in inputs.finetunes.items()
                    if (tau := task_vector(finetune, name, base)) is not None
                )
                weight = merge(weight, vectors)
            stored = weight.to(dtype)
            if not torch.isfinite(stored).all():
                raise InputError(f"output.dtype: {name} does not fit into {dtype}; use bfloat16 or float32")
            yield name, stored
            progress("base", done + 1, len(base.table))

    write_sharded(folder, tensors())
    return Checkpoint.open(folder)


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


def write_one(
    expert: ExpertRecipe,
    inputs: Inputs,
    written: Checkpoint,
    written_sha256: str,
    exclusive: ExclusiveRecipe,
    folder: Path,
    factor_dtype: torch.dtype,
    progress: Progress,
) -> tuple[ExpertFacts, dict[str, Any]]:
    """Compress one fine-tune against ``written``, the model in base/, into ``folder``/experts/<task>; what it
    is and costs, and what was kept of each matrix."""
    finetune, table = inputs.finetunes[expert.task], inputs.base.table
    low_rank: dict[str, LowRank] = {}
    dense: dict[str, Tensor] = {}
    rows: list[dict[str, Any]] = []
    kept = total = 0.0
    for done, (name, parameter) in enumerate(table.items()):
        factors = finetune.low_rank(name)
        if factors is not None:
            low_rank[name] = factors
            rows.append({"name": name, "rank": factors.rank, "kept": 1.0, "exact": True})
        if isinstance(finetune, Adapter):
            delta = finetune.dense(name, inputs.base)
            if delta is not None and delta.any():
                if factors is not None:
                    raise InputError(
                        f"{finetune.folder}: {name} is both adapted and replaced, which is not supported yet"
                    )
                # Against the rounded base again, so that the replaced tensor comes back as it was.
                dense[name] = delta + inputs.base.weight(name) - written.weight(name)
        else:
            delta = finetune.weight(name) - written.weight(name)
            if not parameter.is_matrix:
                if delta.any():
                    dense[name] = delta
            else:
                part = truncate(parameter.to_map(delta), rank=exclusive.rank, energy=exclusive.energy)
                if part.factors is not None:
                    a, b = part.factors.A.to(factor_dtype), part.factors.B.to(factor_dtype)
                    low_rank[name] = LowRank(a, b)
                rank = part.factors.rank if part.factors else 0
                rows.append({"name": name, "rank": rank, "kept": part.kept, "exact": False})
                kept, total = kept + part.kept_energy, total + part.energy
        progress(expert.task, done + 1, len(table))
    size = write_expert(
        folder / "experts" / expert.task,
        table,
        low_rank,
        dense,
        {"task": expert.task, "base_weights_sha256": written_sha256},
    )
    facts = ExpertFacts(
        source=expert.checkpoint,
        sha256=finetune.sha256(),
        kind="adapter" if isinstance(finetune, Adapter) else "full",
        bytes=size,
        max_rank=max((factors.rank for factors in low_rank.values()), default=0),
        kept=kept / total if total > 0 else 1.0,
    )
    beside = [*dense, *(name for name in low_rank if table[name].tied_head)]
    share = _energy_share(beside, low_rank, dense)
    return facts, {"beside_adapter": {"parameters": beside, "energy": share}, "matrices": rows}


def _energy_share(names: list[str], low_rank: dict[str, LowRank], dense: dict[str, Tensor]) -> float:
    """How much of the expert's energy PEFT alone would miss, because it stands beside the adapter."""
    if not names:
        return 0.0
    energies = {name: float(delta.double().square().sum()) for name, delta in dense.items()}
    for name, factors in low_rank.items():
        # ||B A||^2 without forming the product: trace(B^T B A A^T).
        a, b = factors.A.double(), factors.B.double()
        energies[name] = factors.scale**2 * float(((b.T @ b) * (a @ a.T)).sum())
    return sum(energies[name] for name in names) / (sum(energies.values()) or 1.0)


def _first_adapter(inputs: Inputs) -> str | None:
    return next((t for t, f in inputs.finetunes.items() if isinstance(f, Adapter)), None)
