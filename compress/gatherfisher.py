"""Gathering the diagonal of the Fisher information: squared derivatives of a fine-tune's own answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.finetunes import Finetune, finetuned_weight
from compress.fishers import FACTS
from compress.progress import Progress
from compress.shards import DONE, ShardWriter
from compress.staging import staged


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
    if not sequences or not all(sequences):
        raise InputError("calibration: there are no prompts, or an empty one among them")
    model: Any = AutoModelForCausalLM.from_config(base.config).to(device=device, dtype=torch.float32).eval()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(finetuned_weight(finetune, name, base))
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
        (fresh / DONE).unlink()
        (fresh / FACTS).write_text(json.dumps({"model_sha256": finetune.sha256()}) + "\n")
