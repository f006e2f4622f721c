"""Static batches with transformers' generate(): what has arrived goes together, and everybody waits for
the longest prompt and the longest answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from benchmarks.engine.protocol import Progress, Request, Result, Workload


def run(model: Any, workload: Workload, slots: int, prepare: Any = None) -> Result:
    """All requests in batches of at most ``slots``. ``prepare(requests)``: called with each batch before
    it is generated, in measured time; returns further arguments for generate()."""
    progress = Progress(workload)
    waiting = list(range(len(workload)))
    while waiting:
        batch = progress.arrived(waiting)[:slots]
        if not batch:
            progress.sleep_until_next(waiting)
            continue
        requests = [workload[number] for number in batch]
        extra = prepare(requests) if prepare else {}
        tokens, times = generate(model, requests, **extra)
        for number, row in zip(batch, tokens, strict=True):
            for token, at in zip(row, times, strict=True):
                progress.take(number, [token], at)
            waiting.remove(number)
    return progress.result()


class Clock(StoppingCriteria):
    """Asked after each token whether to stop; never does, but notes the time."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


@torch.inference_mode()
def generate(model: Any, requests: Sequence[Request], **extra: Any) -> tuple[list[list[int]], list[float]]:
    """Greedy tokens of each request, as many as the longest wants, and when each column was there."""
    width = max(len(request.prompt) for request in requests)
    ids = torch.tensor([[0] * (width - len(r.prompt)) + r.prompt for r in requests])
    mask = torch.tensor([[0] * (width - len(r.prompt)) + [1] * len(r.prompt) for r in requests])
    clock = Clock()
    answer = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max(request.new_tokens for request in requests),
        do_sample=False,
        stopping_criteria=StoppingCriteriaList([clock]),
        **extra,
    )
    return answer[:, width:].tolist(), clock.times


def never_ending(model: Any) -> Any:
    """``model`` without an end-of-text token, so that every answer gets its full length."""
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model
