"""Whether packing requests into one pass gives this decoder's own logits: asked once, before serving.

An architecture may keep state between tokens, count positions by itself or change its attention in
ways that no configuration tells. Wrong tokens would look like answers, so it is refused instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.errors import InputError
from compress.loading import first_line
from serve.kvcache import Segment
from serve.runner import Runner, Work

LENGTHS = (9, 5)
# Rounding of a deep model in half precision stays far below this share of the logits' spread, and a
# wrong mask or position far above.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
COARSE = 0.08


def check_decoder(runner: Runner) -> None:
    """Raises InputError for a decoder whose packed pass fails or differs from its plain one.

    Two prompts, one in two pieces, one token each of both at the end: chunks and single tokens.
    """
    model = runner.mixture.model
    device = next(model.parameters()).device
    weights = (0.0,) * len(runner.mixture.tasks)
    vocabulary = model.get_input_embeddings().num_embeddings
    prompts = [[(7 * row + 3 * i + 1) % vocabulary for i in range(n)] for row, n in enumerate(LENGTHS)]
    steps = [
        [Segment(row, 0, prompt[:4]) for row, prompt in enumerate(prompts)],
        [Segment(0, 4, prompts[0][4:-1])],
        [Segment(row, len(prompt) - 1, prompt[-1:]) for row, prompt in enumerate(prompts)],
    ]
    name = type(model).__name__
    with torch.inference_mode():
        plain = [model(input_ids=torch.tensor([p], device=device)).logits[0, -1] for p in prompts]
        runner.cache.reserve(len(prompts), max(LENGTHS), len(prompts) * 64)
        try:
            for step in steps:
                packed = runner.run([Work(segment, weights, True) for segment in step])
        finally:
            runner.cache.reset()
    for expected, found in zip(plain, packed, strict=True):
        if isinstance(found, Exception):
            raise InputError(
                f"{name} cannot be served: its requests cannot share a batch ({first_line(found)})"
            ) from found
        assert found is not None
        if _apart(expected, found) > TOLERANCE.get(expected.dtype, COARSE):
            raise InputError(
                f"{name} cannot be served: packed into one batch, requests get other logits than alone; "
                "it keeps something between tokens that is not keys and values"
            )


def _apart(expected: Tensor, found: Tensor) -> float:
    """Root mean square of the differences, relative to the spread. Not the largest one: of 50,000 logits
    in half precision some always lie far off."""
    spread = expected.float().std().clamp_min(1e-12)
    apart = (expected.float() - found.float()).square().mean().sqrt()
    return float((apart / spread).nan_to_num(torch.inf))
