"""One mixture of a bundle as a plain model folder with dense weights."""

from __future__ import annotations

from pathlib import Path

import torch

from compress.bundle import Bundle
from compress.checkpoints import Checkpoint
from compress.compose import Mixture, check_mixture, compose_weight, factor_weights
from compress.export.cards import model_card
from compress.modelfolder import model_writer
from compress.progress import Progress
from compress.shards import SHARD_BYTES


def export_merged(
    bundle: Bundle,
    mixture: Mixture,
    folder: Path,
    dtype: torch.dtype | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress,
) -> None:
    """Write ``W(mixture)`` into the empty ``folder``: a Hugging Face model with tokenizer and card.

    dtype: of the weights; None: as the bundle's base is stored. Sums are in float32, one tensor at a time,
    and rounded once. Raises InputError for a mixture that cannot be used, or a weight that is too large for
    ``dtype``.
    """
    check_mixture(mixture, bundle.tasks, bundle.scalings is not None)
    weights = factor_weights(mixture, bundle.carried, bundle.scalings)
    base = Checkpoint.open(bundle.base)
    stored: torch.dtype = getattr(torch, bundle.manifest.base.dtype) if dtype is None else dtype
    experts = [
        (g, bundle.expert(task, base.table))
        for g, task in zip(weights, bundle.carried, strict=True)
        if g != 0.0
    ]
    writer = model_writer(base, folder, stored, shard_bytes)
    for done, (name, parameter) in enumerate(base.table.items(), start=1):
        deltas = (
            (g, expert.low_rank(name) if parameter.is_matrix else expert.vector(name))
            for g, expert in experts
        )
        writer.write(name, compose_weight(base.weight(name), parameter, deltas))
        writer.finish(name)
        progress("weights", done, len(base.table))
    writer.close()
    card = model_card(bundle, mixture, str(stored).removeprefix("torch."))
    (folder / "README.md").write_text(card)
