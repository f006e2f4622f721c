"""The training loop: completion-only loss, AdamW, resumable at every checkpoint.

A short loop instead of transformers' Trainer: the head computes logits for the answers' positions
alone, which `benchmarks/finetune_loop.py` measures against it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW

from compress.errors import InputError
from examples.zoo.encoding import IGNORED, Batch, Example, collate
from examples.zoo.runstate import Run, trainable

WARMUP = 0.05
CLIP = 1.0
CHECKPOINT_SECONDS = 120.0


def train(
    model: Any,
    examples: Sequence[Example],
    run: Run,
    padding: int,
    progress: Callable[[int, float], None],
) -> tuple[float, list[float]]:
    """Train what ``model`` leaves trainable for ``run``'s steps; returns (seconds, loss by step).

    A resumed run takes the same batches and ends with the same weights as an uninterrupted one.
    ``progress(step, loss)`` is called after every step. Raises InputError when the loss is no
    number any more.
    """
    settings = run.settings
    parameters = list(trainable(model).values())
    optimizer = AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0)
    done, seconds, losses = run.restore(model, optimizer)
    device = parameters[0].device
    model.train()
    began = saved = time.monotonic()
    for step in range(done, settings.steps):
        chosen = batch_indices(len(examples), settings.batch, step, settings.seed)
        batch = collate([examples[i] for i in chosen], padding)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * schedule(step, settings.steps)
        loss = completion_loss(model, batch, device)
        value = loss.item()
        if not math.isfinite(value):
            raise InputError(
                f"the loss is {value} at step {step + 1}: lower --learning-rate, and delete {run.folder}"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value)
        progress(step + 1, value)
        now = time.monotonic()
        if now - saved >= CHECKPOINT_SECONDS or step + 1 == settings.steps:
            run.save(step + 1, seconds + now - began, losses, model, optimizer)
            saved = now
    model.eval()
    return seconds + time.monotonic() - began, losses


def completion_loss(model: Any, batch: Batch, device: torch.device | str) -> Tensor:
    """Mean cross entropy of the answers' tokens; the prompts' tokens teach nothing."""
    kept = batch.labels.shape[1]
    logits = model(
        input_ids=batch.ids.to(device),
        attention_mask=batch.mask.to(device),
        position_ids=batch.positions.to(device),
        logits_to_keep=kept + 1,
        use_cache=False,
    ).logits[:, :-1]
    return cross_entropy(
        logits.flatten(0, 1).float(), batch.labels.to(device).flatten(), ignore_index=IGNORED
    )


def batch_indices(count: int, batch: int, step: int, seed: int) -> list[int]:
    """Which of ``count`` examples step ``step`` (from 0) sees: seeded permutations, one after the
    other. It depends on nothing else, so that a resumed run goes on as it would have."""
    indices = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, count)
        generator = torch.Generator().manual_seed(seed + epoch)
        indices.append(int(torch.randperm(count, generator=generator)[place]))
    return indices


def schedule(step: int, steps: int) -> float:
    """Linear warm-up over the first 5 % of steps, then linear decay to zero."""
    warmup = max(1, round(WARMUP * steps))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup), 1.0)
