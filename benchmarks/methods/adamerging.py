"""AdaMerging (Yang et al. 2024, arXiv:2310.02575): task arithmetic whose coefficients are learnt by making
predictions on unlabelled prompts certain. Here to see whether it earns a place among the methods.

Where the paper takes a classifier's output, this takes the next token after the prompt. As there, Adam starts
from 0.3, and a coefficient belongs to a task (``by="task"``) or to a task and a parameter (``by="layer"``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call

from compress.finetunes import task_vector
from compress.inputs import Inputs
from compress.loading import load_model, load_tokenizer
from serve.evaluate import Item
from serve.prompts import file_ids

START = 0.3
# The paper's batches are 16 prompts a task, its rate 0.001 for 500 steps; this takes shorter, larger ones.
STEPS, BATCH, RATE = 60, 2, 0.01


def adamerged(
    inputs: Inputs,
    items: Mapping[str, Sequence[Item]],
    by: Literal["task", "layer"],
    done: Callable[[], None],
) -> tuple[torch.nn.Module, dict[str, object]]:
    """The merged model, float32, and what was learnt: mean coefficient of every task, entropy in nats before
    and after. ``items``: prompts by task; their answers are not looked at."""
    base, tasks = inputs.base, list(inputs.finetunes)
    model = load_model(base.folder, torch.float32).requires_grad_(False)
    vectors = {name: torch.stack(_vectors(inputs, name)) for name in _touched(inputs)}
    rows = len(vectors) if by == "layer" else 1
    coefficients = torch.full((rows, len(tasks)), START, requires_grad=True)
    optimiser = torch.optim.Adam([coefficients], lr=RATE)
    tokenizer = load_tokenizer(base.folder)
    asked = {task: cycle([file_ids(tokenizer, item.messages) for item in items[task]]) for task in tasks}
    weights = dict(model.named_parameters())

    def merged() -> dict[str, Tensor]:
        of_each = coefficients.expand(len(vectors), -1)
        return {
            name: weights[name] + torch.tensordot(of_each[row], vectors[name], 1)
            for row, name in enumerate(vectors)
        }

    entropies = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        moved = merged()
        # One graph for all prompts of a step: composing costs more than a prompt does.
        losses = [
            _entropy(functional_call(model, moved, kwargs={"input_ids": torch.tensor([ids])}).logits[0, -1])
            for task in tasks
            for ids in islice(asked[task], BATCH)
        ]
        loss = torch.stack(losses).mean()
        loss.backward()
        optimiser.step()
        entropies.append(loss.item())
        done()
    with torch.no_grad():
        for name, weight in merged().items():
            weights[name].copy_(weight)
    means = coefficients.detach().mean(0).tolist()
    learnt = dict(zip(tasks, means, strict=True))
    return model, {
        "coefficients": learnt,
        "entropy before": sum(entropies[:5]) / 5,
        "entropy after": sum(entropies[-5:]) / 5,
    }


def _touched(inputs: Inputs) -> list[str]:
    return [
        name
        for name in inputs.base.table
        if any(task_vector(f, name, inputs.base) is not None for f in inputs.finetunes.values())
    ]


def _vectors(inputs: Inputs, name: str) -> list[Tensor]:
    found = [task_vector(finetune, name, inputs.base) for finetune in inputs.finetunes.values()]
    zero = torch.zeros(inputs.base.table[name].shape)
    return [zero if vector is None else vector for vector in found]


def _entropy(logits: Tensor) -> Tensor:
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum()
