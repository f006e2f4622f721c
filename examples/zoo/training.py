"""The training loop: completion-only loss, AdamW, resumable at every checkpoint.

A short loop instead of transformers' Trainer: the head computes logits for the answers' positions
alone, which `benchmarks/finetune_loop.py` measures against it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
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
    # Not in training mode: a base with dropout would need random numbers that a resumed run lacks.
    model.eval()
    began = saved = time.monotonic()
    for step in range(done, settings.steps):
        chosen = batch_indices(len(examples), settings.batch, step, settings.seed)
        batch = collate([examples[i] for i in chosen], padding)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * schedule(step, settings.steps)
        losses.append(optimiser_step(model, batch, optimizer))
        if not math.isfinite(losses[-1]):
            raise InputError(
                f"the loss or its gradient is no number at step {step + 1}: delete {run.folder} and lower "
                "--learning-rate"
            )
        progress(step + 1, losses[-1])
        now = time.monotonic()
        if now - saved >= CHECKPOINT_SECONDS or step + 1 == settings.steps:
            run.save(step + 1, seconds + now - began, losses, model, optimizer)
            saved = now
    return seconds + time.monotonic() - began, losses


def optimiser_step(model: Any, batch: Batch, optimizer: AdamW) -> float:
    """One step on ``batch`` with the gradient's norm clipped at 1; returns the loss before it. Where loss or
    gradient is no finite number, nothing is changed and NaN returned."""
    parameters = optimizer.param_groups[0]["params"]
    loss = completion_loss(model, batch, parameters[0].device)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP)
    value = loss.item()
    if not math.isfinite(value) or not torch.isfinite(norm):
        return math.nan
    optimizer.step()
    optimizer.zero_grad()
    return value


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
    positions = (divmod(position, count) for position in range(step * batch, (step + 1) * batch))
    return [_order(count, seed + epoch)[place] for epoch, place in positions]


@lru_cache(maxsize=2)  # a batch may end one epoch and begin the next
def _order(count: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return order


def schedule(step: int, steps: int) -> float:
    """Linear warm-up over the first 5 % of steps, then linear decay to zero."""
    warmup = max(1, round(WARMUP * steps))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup), 1.0)
