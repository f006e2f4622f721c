"""One fine-tune's exclusive delta: subtracted, compressed, written as an expert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.adapters import Adapter
from compress.bundle import ExpertFacts, expert_folder
from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.experts import write_expert
from compress.finetunes import Finetune
from compress.lowrank import LowRank, truncate
from compress.progress import Progress
from compress.recipe import ExclusiveRecipe, ExpertRecipe
from compress.workspace import Workspace


def write_exclusive(
    expert: ExpertRecipe,
    finetune: Finetune,
    base: Checkpoint,
    written: Checkpoint,
    exclusive: ExclusiveRecipe,
    folder: Path,
    dtype: torch.dtype,
    work: Workspace,
    progress: Progress,
) -> tuple[ExpertFacts, dict[str, Any]]:
    """Compress one fine-tune of ``base`` against ``written``, the model in base/, into the bundle ``folder``.

    dtype: of the factors. Matrices that ``work`` holds already are not decomposed again. Returns what the
    expert is and costs, and what was kept of each matrix. Raises InputError where a tensor cannot be carried.
    """
    table = base.table
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
            delta = finetune.dense(name, base)
            if delta is not None and delta.any():
                if factors is not None:
                    raise InputError(
                        f"{finetune.folder}: {name} is both adapted and replaced, which is not supported yet"
                    )
                # Against the rounded base again, so that the replaced tensor comes back as it was.
                dense[name] = delta + base.weight(name) - written.weight(name)
        elif not parameter.is_matrix:
            delta = finetune.weight(name) - written.weight(name)
            if delta.any():
                dense[name] = delta
        else:
            piece = f"{expert.task}/{done:05d}"
            part = work.load(piece)
            if part is None:
                delta = finetune.weight(name).sub_(written.weight(name))
                part = _truncated(parameter.to_map(delta), exclusive, dtype)
                work.store(piece, part)
            if "A" in part:
                low_rank[name] = LowRank(part["A"], part["B"])
            energy, kept_energy = part["energies"].tolist()
            rank = len(part["A"]) if "A" in part else 0
            share = min(1.0, kept_energy / energy) if energy > 0 else 1.0
            rows.append({"name": name, "rank": rank, "kept": share, "exact": False})
            kept, total = kept + kept_energy, total + energy
        progress(expert.task, done + 1, len(table))
    size = write_expert(
        folder / expert_folder(expert.task),
        table,
        low_rank,
        dense,
        {"task": expert.task, "base_weights_sha256": written.sha256()},
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
    share = energy_share(beside, low_rank, dense)
    return facts, {"beside_adapter": {"parameters": beside, "energy": share}, "matrices": rows}


def _truncated(delta: Tensor, exclusive: ExclusiveRecipe, dtype: torch.dtype) -> dict[str, Tensor]:
    """Factors A and B of a delta [d_out, d_in], where it is not zero, and its energies before and after."""
    part = truncate(delta, rank=exclusive.rank, energy=exclusive.energy)
    tensors = {"energies": torch.tensor([part.energy, part.kept_energy], dtype=torch.float64)}
    if part.factors is not None:
        tensors |= {"A": part.factors.A.to(dtype), "B": part.factors.B.to(dtype)}
    return tensors


def energy_share(names: list[str], low_rank: dict[str, LowRank], dense: dict[str, Tensor]) -> float:
    """How much of the expert's energy PEFT alone would miss, because it stands beside the adapter."""
    if not names:
        return 0.0
    energies = {name: float(delta.double().square().sum()) for name, delta in dense.items()}
    for name, factors in low_rank.items():
        # ||B A||^2 without forming the product: trace(B^T B A A^T).
        a, b = factors.A.double(), factors.B.double()
        energies[name] = factors.scale**2 * float(((b.T @ b) * (a @ a.T)).sum())
    return sum(energies[name] for name in names) / (sum(energies.values()) or 1.0)
