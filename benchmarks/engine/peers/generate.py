"""transformers' generate() on the plain merged model: no experts at all."""

from __future__ import annotations

from benchmarks.engine import batches
from benchmarks.engine.protocol import Answers, Result, Workload
from compress.bundle import Bundle
from compress.compose import factor_weights, load_composed


class Generate:
    name = "generate"
    answers: Answers = "one model"

    def __init__(self, bundle: Bundle, slots: int) -> None:
        merged = load_composed(bundle, factor_weights({}, bundle.carried, bundle.scalings))
        self.model, self.slots = batches.never_ending(merged), slots

    def run(self, workload: Workload) -> Result:
        return batches.run(self.model, workload, self.slots)

    def close(self) -> None:
        del self.model
