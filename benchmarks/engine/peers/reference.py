"""The way of Twin-Merging's authors (Lu et al. 2024, arXiv:2406.15479): dense exclusive knowledge beside
the shared model, and for every request the whole model is put together anew and answers it alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.engine import batches
from benchmarks.engine.protocol import Answers, Request, Result, Workload
from compress.bundle import Bundle
from compress.compose import factor_weights, load_composed


class Reference:
    name = "reference"
    answers: Answers = "any mixture"

    def __init__(self, bundle: Bundle, slots: int) -> None:
        def composed(mixture: dict[str, float]) -> Any:
            return load_composed(bundle, factor_weights(mixture, bundle.carried, bundle.scalings))

        self.model = batches.never_ending(composed({}))
        self.shared = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.deltas = {task: self._delta(composed({task: 1.0})) for task in bundle.tasks}

    def _delta(self, tuned: Any) -> dict[str, Tensor]:
        """``W_k - W_s`` of what differs; to add zeros, as a plain state dict would, is spared to it."""
        differences = {
            name: parameter.detach() - self.shared[name] for name, parameter in tuned.named_parameters()
        }
        return {name: delta for name, delta in differences.items() if delta.any()}

    def run(self, workload: Workload) -> Result:
        return batches.run(self.model, workload, 1, self._compose)

    @torch.no_grad()
    def _compose(self, requests: Sequence[Request]) -> dict[str, Any]:
        (request,) = requests
        for name, parameter in self.model.named_parameters():
            parameter.copy_(self.shared[name])
            for task, weight in request.mixture.items():
                if (delta := self.deltas[task].get(name)) is not None:
                    parameter.add_(delta, alpha=weight)
        return {}

    def close(self) -> None:
        del self.model, self.shared, self.deltas
