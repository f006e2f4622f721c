"""The section ``kinship`` of a bundle's report.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.adapters import Adapter
from compress.bundle import Manifest, expert_folder
from compress.checkpoints import Checkpoint
from compress.finetunes import Finetune
from compress.grouping import groups, merge_order
from compress.kinship import Kinship, Overlap, measure, reader
from compress.predictedloss import linear_errors, merged_errors
from compress.progress import Progress
from compress.recipe import SHARED

# What is written: more digits would be rounding of the sums.
DIGITS = 6


def kinship_report(
    folder: Path,
    manifest: Manifest,
    base: Checkpoint,
    finetunes: Mapping[str, Finetune],
    progress: Progress,
) -> dict[str, Any]:
    """The section of the bundle in ``folder``, whose base and experts are written.

    base: the pretrained model that ``finetunes`` are fine-tunes of. Reads every task vector once, and the
    merge where it is no sum of them.
    """
    tasks = list(finetunes)
    merge = _merge(folder, manifest, base)
    found = measure(
        tasks + [SHARED] * len(merge), base.table, reader(base, [*finetunes.values(), *merge]), progress
    )
    if merge:
        errors = merged_errors(found.whole.dot)
    else:
        errors = linear_errors(found.whole.dot, [manifest.shared.weights[task] for task in tasks])
    kept = [manifest.experts[task].kept for task in tasks]
    # An expert's energy is that of the delta that was cut: of W_t - W_s, or of the task vector itself.
    cut = 1 - np.array(kept)
    lost = cut * errors if manifest.reference == "shared" else np.where(np.isnan(errors), np.nan, cut)
    return section(found, tasks, errors, lost)


def kinship_of_experts(folder: Path, manifest: Manifest, progress: Progress) -> dict[str, Any] | None:
    """The section anew, from the experts that the bundle in ``folder`` carries, retired ones among them; None
    where they are deltas of the shared base and tell no task vectors."""
    if manifest.reference == "shared":
        return None
    base = Checkpoint.open(folder / "base")
    carried: dict[str, Finetune] = {
        task: Adapter(folder / expert_folder(task), base.table) for task in manifest.experts if task != SHARED
    }
    return kinship_report(folder, manifest, base, carried, progress)


def _merge(folder: Path, manifest: Manifest, base: Checkpoint) -> list[Finetune]:
    """The shared base as one more fine-tune, where the weights of a sum do not tell it."""
    if manifest.reference == "shared":
        return [Checkpoint.open(folder / "base")]
    if SHARED in manifest.experts:
        return [Adapter(folder / expert_folder(SHARED), base.table)]
    return []


def section(found: Kinship, tasks: Sequence[str], static: np.ndarray, expert: np.ndarray) -> dict[str, Any]:
    """Of the first vectors in ``found``, those of ``tasks``; further ones are left out.

    static, expert: predicted losses [K] of the merged model and of the experts, NaN where there is none.
    """
    count = len(tasks)
    whole = found.whole.first(count)
    cosine, conflict, by_count = whole.cosine(), whole.conflict(), whole.conflict_count()
    pairs = sorted(
        ((i, j) for i in range(count) for j in range(i + 1, count)),
        # Of equal ones, by what is written, those that come first: noise of rounding does not rank.
        key=lambda pair: (*np.round([-conflict[pair], cosine[pair]], DIGITS), pair),
    )
    layers = {name: part.first(count) for name, part in found.layers.items()}
    kinds = {name: part.first(count) for name, part in found.kinds.items()}
    return {
        "tasks": list(tasks),
        "cosine": _rounded(cosine),
        "conflict": _rounded(conflict),
        "conflict_by_count": _rounded(by_count),
        "interference": [
            {
                "tasks": [tasks[i], tasks[j]],
                "cosine": _round(cosine[i, j]),
                "conflict": _round(conflict[i, j]),
                "conflict_by_count": _round(by_count[i, j]),
            }
            for i, j in pairs
        ],
        "merge_order": [{"task": tasks[i], "kinship": _round(k)} for i, k in merge_order(cosine)],
        "groups": [[tasks[i] for i in group] for group in groups(cosine)],
        "loss": {
            task: {"static": _round(static[i]), "expert": _round(expert[i])} for i, task in enumerate(tasks)
        },
        "energy": {
            task: {
                "total": float(f"{whole.energy[i]:.{DIGITS}g}"),
                "layers": _shares(layers, i),
                "kinds": _shares(kinds, i),
            }
            for i, task in enumerate(tasks)
        },
        "layers": {name: _rounded(part.cosine()) for name, part in layers.items()},
        "kinds": {name: _rounded(part.cosine()) for name, part in kinds.items()},
    }


def _shares(parts: Mapping[str, Overlap], index: int) -> dict[str, float]:
    energies = {name: float(part.energy[index]) for name, part in parts.items()}
    total = sum(energies.values()) or 1.0
    return {name: _round(energy / total) or 0.0 for name, energy in energies.items()}


def _rounded(matrix: np.ndarray) -> list[list[float]]:
    # Adding 0 makes -0 plain 0.
    rounded: list[list[float]] = (np.round(matrix, DIGITS) + 0.0).tolist()
    return rounded


def _round(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), DIGITS) + 0.0
