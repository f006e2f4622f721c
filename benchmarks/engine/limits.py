"""What a decode step must at least cost here: bytes over measured bandwidth, operations over the measured
rate of the library's matrix products."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from serve.costs import Shape
from serve.kernels import Weights
from serve.mixture import MixtureModel

STREAM = 2**30
REPEATS = 5


class Limits:
    """bandwidth: bytes a second of reading weights once. rate: operations a second of large products."""

    def __init__(self, mixture: MixtureModel) -> None:
        self.shape = Shape(mixture)
        model = mixture.model
        # A tied head is read as a head; the look-up of a few rows of an embedding is not worth counting.
        embedding = model.get_input_embeddings().weight
        tied = model.get_output_embeddings().weight is embedding
        every = sum(p.numel() for p in model.parameters())
        self.weights = every if tied else every - embedding.numel()
        block = torch.rand(STREAM // 4)
        self.bandwidth = STREAM / _best(block.sum)
        a, b = torch.rand(1024, 2048), torch.rand(2048, 2048)
        self.rate = 2 * 1024 * 2048 * 2048 / _best(lambda: F.linear(a, b))

    def seconds(self, tokens: int, mixtures: Sequence[Weights]) -> float:
        """The later of both: all weights and every used expert's factors read once, and each row's own
        products."""
        used = {k for row in mixtures for k, weight in enumerate(row) if weight}
        read = self.weights + sum(self.shape.expert[k] for k in used)
        own = sum(self.shape.expert[k] for row in mixtures for k, weight in enumerate(row) if weight)
        operations = 2 * (tokens * self.weights + own)
        return max(read * self.shape.item / self.bandwidth, operations / self.rate)

    def ratio(self, static: float, tokens: int, mixtures: Sequence[Weights]) -> float:
        """The best share of the static model's speed: what mixtures add at the limit, to the step as it
        is. One mixture for all rows adds nothing, since it can be composed."""
        if len(set(mixtures)) == 1:
            return 1.0
        none = [tuple(0.0 for _ in mixtures[0])] * tokens
        return static / (static + self.seconds(tokens, mixtures) - self.seconds(tokens, none))

    def sentence(self) -> str:
        """For people."""
        return (
            f"{self.weights * self.shape.item / 1e6:.0f} MB of weights a step, "
            f"{sum(self.shape.expert) * self.shape.item / 1e6:.0f} MB of factors; memory "
            f"{self.bandwidth / 1e9:.1f} GB/s, products {self.rate / 1e9:.0f} GFLOP/s"
        )

    def facts(self) -> dict[str, Any]:
        """For a file."""
        return {
            "weight_bytes": self.weights * self.shape.item,
            "factor_bytes": sum(self.shape.expert) * self.shape.item,
            "bytes_per_second": self.bandwidth,
            "operations_per_second": self.rate,
        }


def _best(run: Callable[[], Any]) -> float:
    with torch.inference_mode():
        run()
        best = float("inf")
        for _ in range(REPEATS):
            started = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - started)
    return best
