"""A shared base that no sum of experts is, carried beside them as one more delta: ``W_s - W_0``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.bundle import ExpertFacts, expert_folder
from compress.checkpoints import Checkpoint
from compress.exclusive import energy_share
from compress.experts import write_expert
from compress.lowrank import LowRank, truncate
from compress.merge import Merger
from compress.progress import Progress
from compress.recipe import SHARED
from compress.tensorfiles import hash_tensors
from compress.workspace import Workspace

# How far factors may be from a low-rank delta, relative to its norm: rounding, and nothing that was cut off.
ROUNDING = 1e-5


def write_shared_delta(
    merger: Merger, written: Checkpoint, folder: Path, dtype: torch.dtype, work: Workspace, progress: Progress
) -> tuple[ExpertFacts, dict[str, Any]]:
    """Write ``W_s - W_0`` of a merge into the bundle ``folder``, without truncating it.

    Adapters are deltas of the pretrained base, and a merge that is no sum of them needs weights of its own:
    as factors where the merge leaves a matrix' delta low-rank and the method says that it does, else as
    dense deltas of ``dtype``. Returns facts and report rows as ``write_experts`` does.
    """
    base, table = merger.source.base, merger.source.table
    low_rank: dict[str, LowRank] = {}
    dense: dict[str, Tensor] = {}
    rows: list[dict[str, Any]] = []
    for done, (name, parameter) in enumerate(table.items()):
        piece = f"{SHARED}/{done:05d}"
        part = work.load(piece)
        if part is None:
            part = {}
            delta = merger.merged(name).sub_(base.weight(name))
            bound = merger.source.rank_bound(name) if merger.method.keeps_low_rank else None
            exact = _factors(parameter.to_map(delta), bound) if parameter.is_matrix else None
            if exact is not None:
                part = {"A": exact.A.to(dtype), "B": exact.B.to(dtype)}
            elif delta.any():
                part = {"delta": delta.to(dtype)}
            work.store(piece, part)
        if "A" in part:
            low_rank[name] = LowRank(part["A"], part["B"])
        if "delta" in part:
            dense[name] = part["delta"]
        if parameter.is_matrix and part:
            rank = len(part["A"]) if "A" in part else min(parameter.shape)
            rows.append({"name": name, "rank": rank, "kept": 1.0, "exact": True})
        progress(SHARED, done + 1, len(table))
    card = {"task": SHARED, "base_weights_sha256": written.sha256()}
    size = write_expert(folder / expert_folder(SHARED), table, low_rank, dense, card)
    factors = ((f"{name}.{part}", getattr(f, part)) for name, f in low_rank.items() for part in "AB")
    facts = ExpertFacts(
        source=merger.method.name,
        sha256=hash_tensors([*dense.items(), *factors]),
        kind="merge",
        bytes=size,
        max_rank=max((row["rank"] for row in rows), default=0),
        kept=1.0,
    )
    beside = [*dense, *(name for name in low_rank if table[name].tied_head)]
    share = energy_share(beside, low_rank, dense)
    return facts, {"beside_adapter": {"parameters": beside, "energy": share}, "matrices": rows}


def _factors(delta: Tensor, bound: int | None) -> LowRank | None:
    """The delta [d_out, d_in] as factors of rank at most ``bound``, or None where that would truncate it or
    save nothing."""
    if bound is None or bound * sum(delta.shape) >= delta.numel():
        return None
    factors = truncate(delta, rank=bound).factors
    if factors is None or (delta - factors.dense()).norm() > ROUNDING * delta.norm():
        return None
    return factors
