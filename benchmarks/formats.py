"""Two other formats of experts, against ours at equal bytes: do they earn a place?

    python -m benchmarks.formats BASE --full FINETUNE --full FINETUNE … --adapter ADAPTER --adapter ADAPTER …

EMR-Merging (Huang et al. 2024, arXiv:2405.17461): one unified vector, and for every full fine-tune a sign
mask and a number; against mixed 8/4/2-bit factors. Compress then Serve (Gabrielsson et al. 2024,
arXiv:2407.00066): one basis shared by all adapters, and for each a small core; against truncating every
adapter alone. Relative squared errors, without any model being run. Writes benchmarks/results/formats.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from compress.adapters import Adapter
from compress.allocation import Spectrum, allocate
from compress.checkpoints import Checkpoint
from compress.codes import quantise_factors
from compress.deltas import DenseDelta
from compress.lowrank import LowRank, truncate
from compress.sources import resolve
from serve.commands.progress import bars

RESULT = Path("benchmarks/results/formats.json")
# Of so many matrices one is looked at: a prime, lest it be the same kind in every layer.
EVERY = 13
RANKS = (2, 4, 8, 12)
SWEEPS = 5


def main(
    base: Annotated[str, typer.Argument(metavar="BASE")],
    full: Annotated[list[str], typer.Option(help="A full fine-tune; several.")],
    adapter: Annotated[list[str], typer.Option(help="An adapter; several.")],
    threads: Annotated[int | None, typer.Option(help="Of torch.")] = None,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Compare."""
    if threads:
        torch.set_num_threads(threads)
    opened = Checkpoint.open(resolve(base))
    linear = [p for p in opened.table.values() if p.is_matrix and not p.tied_head]
    chosen = linear[::EVERY]
    tuned = [Checkpoint.open(resolve(path), opened) for path in full]
    adapters = [Adapter(resolve(path), opened.table) for path in adapter]
    lost = {"unified vector and masks": 0.0, "mixed 8/4/2-bit factors": 0.0}
    shared: dict[int, list[float]] = {rank: [0.0, 0.0] for rank in RANKS}
    energy = low_energy = 0.0
    with bars() as shown:
        done = shown.stage("matrices", len(chosen))
        for parameter in chosen:
            vectors = torch.stack([t.weight(parameter.name) - opened.weight(parameter.name) for t in tuned])
            energy += float(vectors.square().sum())
            lost["unified vector and masks"] += emr_loss(vectors)
            lost["mixed 8/4/2-bit factors"] += mixed_loss(vectors, emr_bytes(vectors))
            factors = [f for a in adapters if (f := a.low_rank(parameter.name)) is not None]
            low_energy += sum(float(f.dense().square().sum()) for f in factors)
            for rank in RANKS:
                alone = sum(truncated_loss(f, rank) for f in factors)
                shared[rank][0] += alone
                shared[rank][1] += basis_loss(factors, rank)
            done()
    facts: dict[str, Any] = {
        "full fine-tunes": len(tuned),
        "adapters": len(adapters),
        "matrices": len(chosen),
        "share of the deltas' bytes": (1 + len(tuned) / 16) / len(tuned),
        "full, error": {name: value / energy for name, value in lost.items()},
        "adapters, error": {
            str(rank): {"each alone": alone / low_energy, "shared basis": basis / low_energy}
            for rank, (alone, basis) in shared.items()
        },
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(facts, indent=2) + "\n")
    show(facts, Console())


def emr_loss(vectors: Tensor) -> float:
    """Squared error of EMR's reconstruction of task vectors [k, …]."""
    sign = vectors.sum(0).sign()
    agreeing = torch.where(vectors * sign > 0, vectors.abs(), 0.0)
    unified = sign * agreeing.amax(0)
    masked = torch.where(vectors * unified > 0, unified, 0.0)
    dims = tuple(range(1, vectors.dim()))
    scale = vectors.abs().sum(dims) / masked.abs().sum(dims).clamp_min(1e-30)
    return float((vectors - scale.view(-1, *[1] * len(dims)) * masked).square().sum())


def emr_bytes(vectors: Tensor) -> int:
    """Bytes of EMR's format: the unified vector in half precision, a bit an element and fine-tune."""
    each = vectors[0].numel()
    return 2 * each + len(vectors) * each // 8


def mixed_loss(vectors: Tensor, budget: int) -> float:
    """Squared error of mixed-precision factors of all of ``vectors`` [k, d_out, d_in] in ``budget`` bytes."""
    factors = [f for vector in vectors if (f := truncate(vector, rank=min(vector.shape)).factors) is not None]
    spectra = {
        str(number): Spectrum(
            f.A.norm(dim=1).square().numpy(), (f.B.shape[0], f.A.shape[1]), float(vectors.square().sum())
        )
        for number, f in enumerate(factors)
    }
    bits, _ = allocate(spectra, budget, (8, 4, 2))
    lost = 0.0
    for number, (vector, f) in enumerate(zip(vectors, factors, strict=True)):
        kept = quantise_factors(f, bits[str(number)], DenseDelta(vector)).dequantised().dense()
        lost += float((vector - kept).square().sum())
    return lost


def truncated_loss(factors: LowRank, rank: int) -> float:
    """Squared error of an adapter's delta cut to ``rank``."""
    _, upper_a = torch.linalg.qr(factors.A.float().T)
    _, upper_b = torch.linalg.qr(factors.B.float())
    values = factors.scale * torch.linalg.svdvals(upper_b @ upper_a.T)
    return float(values[rank:].square().sum())


def basis_loss(factors: Sequence[LowRank], rank: int) -> float:
    """Squared error of deltas U C_i V^T with U, V shared, where all take the bytes of ``rank`` each alone.

    U and V are found by alternating the leading eigenvectors, as the paper does.
    """
    d_out, d_in = factors[0].B.shape[0], factors[0].A.shape[1]
    count, budget = len(factors), rank * len(factors) * (d_out + d_in)
    # size (d_out + d_in) + count size² = budget
    side = d_out + d_in
    size = int((-side + np.sqrt(side**2 + 4 * count * budget)) / (2 * count))
    deltas = torch.stack([f.dense() for f in factors])
    right = torch.linalg.svd(deltas.flatten(0, 1), full_matrices=False)[2][:size].T
    left = deltas.new_empty(0)
    for _ in range(SWEEPS):
        left = _leading(deltas @ right, size)
        right = _leading(deltas.mT @ left, size)
    kept = float((left.T @ deltas @ right).square().sum())
    return float(deltas.square().sum()) - kept


def _leading(stacked: Tensor, size: int) -> Tensor:
    """The ``size`` leading left singular vectors of matrices [k, d, size] side by side."""
    gram = (stacked @ stacked.mT).sum(0).double()
    return torch.linalg.eigh(gram)[1][:, -size:].float()


def show(facts: dict[str, Any], console: Console) -> None:
    """The figures as tables."""
    share = facts["share of the deltas' bytes"]
    table = Table(
        title=f"{facts['full fine-tunes']} full fine-tunes at {share:.2f} of their deltas' bytes",
        title_justify="left",
    )
    table.add_column("format")
    table.add_column("error", justify="right")
    for name, error in facts["full, error"].items():
        table.add_row(name, f"{100 * error:.2f} %")
    console.print(table)
    table = Table(title=f"{facts['adapters']} adapters, error at equal bytes", title_justify="left")
    for column in ("bytes of rank", "each alone", "shared basis"):
        table.add_column(column, justify="right")
    for rank, row in facts["adapters, error"].items():
        table.add_row(rank, *(f"{100 * error:.2f} %" for error in row.values()))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
