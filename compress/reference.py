"""Which model experts are deltas of: the shared base or the pretrained one, by measurement."""

from __future__ import annotations

from typing import Literal

from compress.checkpoints import Checkpoint
from compress.decompose import even_share
from compress.finetunes import Finetune
from compress.lowrank import truncate
from compress.recipe import ExclusiveRecipe

SAMPLE = 8
# A smaller share of a delta's energy is rounding, and that is no reason to prefer a reference.
ROUNDING = 1e-6


def choose_reference(
    base: Checkpoint,
    finetunes: dict[str, Finetune],
    coefficients: dict[str, float],
    exclusive: ExclusiveRecipe,
    budget: int | None,
) -> Literal["shared", "pretrained"]:
    """The reference with the smaller loss on a sample of matrices.

    With an adapter among the inputs it is the pretrained base, over which adapters keep their rank. For
    full checkpoints only, both references are truncated on up to eight matrices spread over the
    model: at a given rank, or the one that ``budget`` bytes would give every matrix, the squared error
    decides, at a given energy the rank that it needs; the shared base, which answers prompts of no task
    without any expert, where neither is better.
    """
    full = {task: f for task, f in finetunes.items() if isinstance(f, Checkpoint)}
    if len(full) < len(finetunes):
        return "pretrained"
    matrices = [p for p in base.table.values() if p.is_matrix and not p.tied_head]
    step = -(-len(matrices) // SAMPLE)
    cost = {"shared": 0.0, "pretrained": 0.0}
    for parameter in matrices[step // 2 :: step]:
        rank = exclusive.rank
        if budget is not None:
            share = even_share(len(full), base.table, max(0, budget), exclusive)
            rank = min(min(parameter.shape), 1 + int(share * min(parameter.shape)))
        weight = base.weight(parameter.name)
        vectors = {task: f.weight(parameter.name) - weight for task, f in full.items()}
        shift = sum(coefficients[task] * vector for task, vector in vectors.items())
        for vector in vectors.values():
            for reference, delta in (("shared", vector - shift), ("pretrained", vector)):
                part = truncate(parameter.to_map(delta), rank=rank, energy=exclusive.energy)
                if exclusive.energy is not None:
                    cost[reference] += part.factors.rank if part.factors else 0
                elif (lost := part.energy - part.kept_energy) > ROUNDING * part.energy:
                    cost[reference] += lost
    return "shared" if cost["shared"] <= cost["pretrained"] else "pretrained"
