"""Exclusive deltas of fine-tunes: subtracted, compressed, written as experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from compress.adapters import Adapter
from compress.bundle import ExpertFacts, expert_folder
from compress.checkpoints import Checkpoint
from compress.codes import QuantisedFactors, quantise_factors
from compress.decompose import CHOICES, Decomposition, check_budget, decompose
from compress.errors import InputError
from compress.experts import write_expert
from compress.finetunes import Finetune
from compress.lowrank import LowRank
from compress.parameters import Parameter
from compress.progress import Progress
from compress.recipe import ExclusiveRecipe, ExpertRecipe
from compress.workspace import Workspace


@dataclass
class Pieces:
    """What an expert is written from, by parameter, and what was kept of each matrix."""

    low_rank: dict[str, LowRank] = field(default_factory=dict)
    quantised: dict[str, QuantisedFactors] = field(default_factory=dict)
    dense: dict[str, Tensor] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    energy: float = 0.0
    lost: float = 0.0

    @property
    def kept(self) -> float:
        return 1 - self.lost / self.energy if self.energy > 0 else 1.0


Kind = Literal["adapter", "compressed adapter", "full"]
# Those that share a budget of bytes.
SHARING: tuple[Kind, ...] = ("compressed adapter", "full")
Written = dict[str, tuple[ExpertFacts, dict[str, Any]]]


def write_experts(
    experts: list[ExpertRecipe],
    finetunes: Mapping[str, Finetune],
    base: Checkpoint,
    written: Checkpoint,
    exclusive: ExclusiveRecipe,
    dtype: torch.dtype,
    budget: int | None,
    folder: Path,
    work: Workspace,
    progress: Progress,
) -> Written:
    """Compress fine-tunes of ``base`` against ``written``, the model in base/, into the bundle ``folder``.

    dtype: of factors that are not quantised. budget: bytes for all experts, None without. Matrices that
    ``work`` holds already are not taken apart again. Returns what each expert is and costs, and what was kept
    of each matrix. Raises InputError where a tensor cannot be carried or the budget is too small.
    """
    made: dict[str, Pieces] = {}
    parts: dict[str, Decomposition] = {}
    for task, finetune in finetunes.items():
        if isinstance(finetune, Adapter):
            made[task] = _of_adapter(finetune, base, written, exact=exclusive.adapters == "exact")
        else:
            made[task] = Pieces(dense=_vectors(finetune, written))
        if kind_of(finetune, exclusive) in SHARING:
            parts[task] = Decomposition(task, finetune, written, work)
    if budget is not None:
        budget -= sum(_bytes(pieces) for pieces in made.values())
        if budget < 0:
            check_budget(budget)
    bits = decompose(parts, exclusive, budget, progress)
    found: Written = {}
    for expert in experts:
        pieces = made.pop(expert.task)
        if expert.task in parts:
            compress_matrices(pieces, parts[expert.task], bits[expert.task], exclusive, dtype)
        finetune = finetunes[expert.task]
        found[expert.task] = _write(expert, finetune, kind_of(finetune, exclusive), pieces, written, folder)
        progress("experts", len(found), len(experts))
    return found


def kind_of(finetune: Finetune, exclusive: ExclusiveRecipe) -> Kind:
    """What an expert of it is called in the manifest."""
    if isinstance(finetune, Checkpoint):
        return "full"
    return "adapter" if exclusive.adapters == "exact" else "compressed adapter"


def _of_adapter(adapter: Adapter, base: Checkpoint, written: Checkpoint, *, exact: bool) -> Pieces:
    """What stands beside an adapter's factors and, where they are carried exactly, those themselves."""
    pieces = Pieces()
    for name in base.table:
        factors = adapter.low_rank(name)
        if factors is not None and exact:
            pieces.low_rank[name] = factors
            pieces.rows.append({"name": name, "rank": factors.rank, "kept": 1.0, "exact": True})
        delta = adapter.dense(name, base)
        if delta is not None and delta.any():
            if factors is not None:
                raise InputError(
                    f"{adapter.folder}: {name} is both adapted and replaced, which is not supported yet"
                )
            # Against the rounded base again, so that the replaced tensor comes back as it was.
            pieces.dense[name] = delta + base.weight(name) - written.weight(name)
    return pieces


def _vectors(finetune: Checkpoint, written: Checkpoint) -> dict[str, Tensor]:
    """Deltas of norms and biases, where they are not zero."""
    names = [name for name, parameter in written.table.items() if not parameter.is_matrix]
    deltas = ((name, finetune.weight(name) - written.weight(name)) for name in names)
    return {name: delta for name, delta in deltas if delta.any()}


def _bytes(pieces: Pieces) -> int:
    factors = sum(f.A.nbytes + f.B.nbytes for f in pieces.low_rank.values())
    return factors + sum(delta.nbytes for delta in pieces.dense.values())


def compress_matrices(
    pieces: Pieces,
    part: Decomposition,
    bits: Mapping[str, np.ndarray],
    exclusive: ExclusiveRecipe,
    dtype: torch.dtype,
) -> None:
    """Add the matrices of a fine-tune to ``pieces``, and what each lost: measured on what is stored."""
    for name, chosen in bits.items():
        parameter, energy = part.written.table[name], part.energies[name]
        rank, lost = int((chosen > 0).sum()), energy
        factors = part.factors(name) if rank else None
        if factors is not None:
            lost = _store(pieces, parameter, part, factors, chosen, exclusive, dtype)
        kept = 1 - lost / energy if energy > 0 else 1.0
        pieces.rows.append({"name": name, "rank": rank, "kept": kept, "exact": False, **_shown(chosen)})
        pieces.energy, pieces.lost = pieces.energy + energy, pieces.lost + lost


def _store(
    pieces: Pieces,
    parameter: Parameter,
    part: Decomposition,
    factors: LowRank,
    bits: np.ndarray,
    exclusive: ExclusiveRecipe,
    dtype: torch.dtype,
) -> float:
    """Keep the components that have bits; the energy that is lost by it."""
    delta = part.delta(parameter)
    if exclusive.dtype in CHOICES:
        quantised = quantise_factors(factors, bits, delta)
        pieces.quantised[parameter.name] = quantised
        kept = quantised.dequantised()
    else:
        rank = int((bits > 0).sum())
        kept = LowRank(factors.A[:rank].to(dtype), factors.B[:, :rank].to(dtype))
        pieces.low_rank[parameter.name] = kept
    return delta.distance(kept)


def _shown(bits: np.ndarray) -> dict[str, Any]:
    """How many components have how many bits, where that differs."""
    kinds, counts = np.unique(bits[bits > 0], return_counts=True)
    if set(kinds) <= {16}:
        return {}
    return {"bits": {str(kind): int(count) for kind, count in zip(kinds, counts, strict=True)}}


def _write(
    expert: ExpertRecipe, finetune: Finetune, kind: Kind, pieces: Pieces, written: Checkpoint, folder: Path
) -> tuple[ExpertFacts, dict[str, Any]]:
    size = write_expert(
        folder / expert_folder(expert.task),
        written.table,
        pieces.low_rank,
        pieces.dense,
        {"task": expert.task, "base_weights_sha256": written.sha256()},
        pieces.quantised,
    )
    factors = {**pieces.low_rank, **{name: q.dequantised() for name, q in pieces.quantised.items()}}
    facts = ExpertFacts(
        source=expert.checkpoint,
        sha256=finetune.sha256(),
        kind=kind,
        bytes=size,
        max_rank=max((f.rank for f in factors.values()), default=0),
        kept=pieces.kept,
    )
    beside = [*pieces.dense, *(n for n in factors if written.table[n].tied_head or n in pieces.quantised)]
    share = energy_share(beside, factors, pieces.dense)
    return facts, {"beside_adapter": {"parameters": beside, "energy": share}, "matrices": pieces.rows}


def energy_share(names: list[str], low_rank: dict[str, LowRank], dense: dict[str, Tensor]) -> float:
    """How much of the expert's energy PEFT alone would miss, because it stands beside the adapter."""
    if not names:
        return 0.0
    energies = {name: float(delta.double().square().sum()) for name, delta in dense.items()}
    energies |= {name: factors.energy for name, factors in low_rank.items()}
    return sum(energies[name] for name in names) / (sum(energies.values()) or 1.0)
