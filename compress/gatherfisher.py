"""Gathering the diagonal of the Fisher information: squared derivatives of a fine-tune's own answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from compress.checkpoints import Checkpoint
from compress.finetunes import Finetune, apply
from compress.fishers import FACTS
from compress.loading import load_model
from compress.progress import Progress
from compress.shards import ShardWriter
from compress.staging import staged
from compress.streamed import refuse_empty


def gather_fisher(
    finetune: Finetune,
    base: Checkpoint,
    sequences: Sequence[Sequence[int]],
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    stage: str,
    progress: Progress,
) -> None:
    """Write ``E_x E_{y ~ p(y|x)} (d log p(y|x) / d theta)^2`` of ``finetune`` to ``folder``.

    x are the token ids; y one next token at every position, drawn from the model's own prediction (seeded).
    One prompt is differentiated at a time, because the square is of each example's derivative. The whole
    model, its derivatives and their squares are in memory. Raises InputError where there is nothing to run
    over.
    """
    refuse_empty(sequences)
    model = apply(finetune, load_model(base.folder, torch.float32).to(device), base)
    parameters = dict(model.named_parameters())
    squares = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    generator = torch.Generator().manual_seed(0)
    for done, sequence in enumerate(sequences):
        logits = model(input_ids=torch.tensor([sequence], device=device), use_cache=False).logits[0]
        drawn = torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=generator)[:, 0]
        cross_entropy(logits, drawn.to(device), reduction="sum").backward()
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                squares[name].addcmul_(parameter.grad, parameter.grad, value=1 / len(sequences))
        model.zero_grad()
        progress(stage, done + 1, len(sequences))
    with staged(folder) as fresh:
        writer = ShardWriter(fresh, {name: p.shape for name, p in base.table.items()}, torch.float32)
        for name, square in squares.items():
            writer.write(name, square.cpu())
            writer.finish(name)
        writer.close()
        (fresh / FACTS).write_text(json.dumps({"model_sha256": finetune.sha256()}) + "\n")
