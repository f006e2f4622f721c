"""Exclusive deltas taken apart: singular vectors on disk, and how many of them a budget pays for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from compress.adapters import Adapter
from compress.allocation import Spectrum, allocate
from compress.checkpoints import Checkpoint
from compress.deltas import Delta, DenseDelta, ThinDelta
from compress.errors import InputError
from compress.finetunes import Finetune
from compress.lowrank import LowRank
from compress.parameters import Parameter
from compress.progress import Progress
from compress.recipe import ExclusiveRecipe
from compress.workspace import Workspace

CHOICES = {"int8": (8,), "mixed": (8, 4, 2)}
# A budget of bytes goes where the energy is: no matrix is expected to take more than this many times the
# rank that an even split would give it.
UNEVEN = 4


class Decomposition:
    """One fine-tune's deltas as factors, matrix by matrix, kept in a workspace.

    Of a full checkpoint against ``written``, the model in base/; of an adapter its own, whatever base/ is.
    ``matrices``: those that it may change, by name.
    """

    def __init__(self, task: str, finetune: Finetune, written: Checkpoint, work: Workspace) -> None:
        self.task, self.finetune, self.written, self.work = task, finetune, written, work
        self.thin = isinstance(finetune, Adapter)
        self.matrices = {
            name: parameter
            for name, parameter in written.table.items()
            if parameter.is_matrix and (not self.thin or finetune.low_rank(name) is not None)
        }
        # Noted by ``run``: singular values [rank], and squared Frobenius norms of whole deltas.
        self.values: dict[str, np.ndarray] = {}
        self.energies: dict[str, float] = {}

    def delta(self, parameter: Parameter) -> Delta:
        """The delta of one of ``matrices``."""
        if isinstance(self.finetune, Adapter):
            factors = self.finetune.low_rank(parameter.name)
            assert factors is not None
            return ThinDelta(factors)
        difference = self.finetune.weight(parameter.name).sub_(self.written.weight(parameter.name))
        return DenseDelta(parameter.to_map(difference))

    def factors(self, name: str) -> LowRank | None:
        """Balanced factors, components in falling order; None for a delta of zero. After ``run``."""
        piece = self.work.load(self._key(name))
        return LowRank(piece["A"], piece["B"]) if piece is not None and "A" in piece else None

    def run(self, exclusive: ExclusiveRecipe, share: float | None, progress: Progress) -> None:
        """Take all matrices apart that are not yet; ``share``: of full rank at most, under a budget."""
        for done, parameter in enumerate(self.matrices.values()):
            piece = self.work.load(self._key(parameter.name))
            if piece is None:
                piece = self._taken_apart(parameter, exclusive, share)
                self.work.store(self._key(parameter.name), piece)
            self.values[parameter.name] = piece["values"].numpy()
            self.energies[parameter.name] = float(piece["energy"])
            progress(self.task, done + 1, len(self.matrices))

    def _taken_apart(
        self, parameter: Parameter, exclusive: ExclusiveRecipe, share: float | None
    ) -> dict[str, Tensor]:
        rank = exclusive.rank
        if share is not None:
            smaller = min(parameter.shape)
            rank = min(smaller, 1 + int(share * smaller))
        part = self.delta(parameter).truncated(rank=rank, energy=exclusive.energy)
        piece = {"energy": torch.tensor(part.energy, dtype=torch.float64), "values": torch.zeros(0)}
        if part.factors is not None:
            piece |= {"A": part.factors.A, "B": part.factors.B, "values": part.factors.A.norm(dim=1).square()}
        return piece

    def _key(self, name: str) -> str:
        return f"{self.task}/{list(self.written.table).index(name):05d}"


def bits_by_matrix(
    parts: Mapping[str, Decomposition], exclusive: ExclusiveRecipe, budget: int | None
) -> dict[str, dict[str, np.ndarray]]:
    """task -> matrix -> bits of every component: one number for all, or what ``budget`` bytes pay for.

    16 stands for components in the factors' float type.
    """
    choices = CHOICES.get(exclusive.dtype or "", (16,))
    names = {(task, name): p for task, part in parts.items() for name, p in part.matrices.items()}
    if budget is None:
        bits = {key: np.full(len(parts[key[0]].values[key[1]]), choices[0]) for key in names}
    else:
        energies = {task: sum(part.energies.values()) for task, part in parts.items()}
        spectra = {
            f"{task} {name}": Spectrum(parts[task].values[name], parameter.sides, energies[task])
            for (task, name), parameter in names.items()
            if energies[task] > 0
        }
        found, _ = allocate(spectra, budget, choices)
        bits = {key: found.get(f"{key[0]} {key[1]}", np.zeros(0, dtype=np.int64)) for key in names}
    return {task: {name: bits[of, name] for of, name in names if of == task} for task in parts}


def even_share(tables: int, table: Mapping[str, Parameter], budget: int, exclusive: ExclusiveRecipe) -> float:
    """Which share of full rank ``budget`` bytes would give every matrix of ``tables`` fine-tunes, with the
    fewest bits that the recipe allows."""
    fewest = min(CHOICES.get(exclusive.dtype or "", (16,)))
    full = sum(min(p.shape) * sum(p.shape) for p in table.values() if p.is_matrix)
    return 8 * budget / max(1, tables * full * fewest)


def check_budget(budget: int) -> None:
    """Raises InputError where nothing is left for factors."""
    if budget <= 0:
        raise InputError(
            "exclusive.size: base, adapters, norms and biases alone need all of it; give more, compress the "
            "adapters (exclusive.adapters), or store the base in half precision (output.dtype)"
        )


def decompose(
    parts: Mapping[str, Decomposition], exclusive: ExclusiveRecipe, budget: int | None, progress: Progress
) -> dict[str, dict[str, np.ndarray]]:
    """Take all of ``parts`` apart and decide the bits of every component; see ``bits_by_matrix``.

    Raises InputError where the budget is used up before the first component.
    """
    if not parts:
        return {}
    share = None
    if budget is not None:
        check_budget(budget)
        table = next(iter(parts.values())).written.table
        full = sum(not part.thin for part in parts.values())
        share = UNEVEN * even_share(full, table, budget, exclusive)
    for part in parts.values():
        # An adapter has few components, and all of them compete.
        part.run(exclusive, 1.0 if part.thin and budget is not None else share, progress)
    return bits_by_matrix(parts, exclusive, budget)
