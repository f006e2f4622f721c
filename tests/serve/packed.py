"""A runner and an engine over a tiny bundle, and costs that need no measuring."""

from __future__ import annotations

from typing import Any

import torch

from compress.compose import factor_weights
from serve.costs import Costs, Rates
from serve.engine import Engine
from serve.kvcache import Segment, SlotCache
from serve.mixture import MixtureModel
from serve.planner import Planner
from serve.runner import Runner, Work
from serve.settings import EngineSettings
from tests import tiny
from tests.bundles import Zoo

RATES = Rates(call=1e-6, byte=1e-10, flop=1e-10)
COSTS = Costs(sliced=RATES, stacked=RATES, grouped=RATES, base={1: 1e-3, 64: 1e-2}, compose=1e-10)


class Packed:
    """One model with its cache and planner; ``logits`` runs a step."""

    def __init__(
        self, zoo: Zoo, mode: Any = "auto", rows: int = 8, length: int = 128, static: bool = False
    ) -> None:
        self.zoo = zoo
        self.mixture = MixtureModel.load(zoo.bundle, dtype=torch.float32)
        self.planner = Planner(self.mixture, COSTS, 2 * self.mixture.parameter_bytes, mode, static)
        self.cache = SlotCache(self.mixture.model.config, static)
        self.cache.reserve(rows, length, rows * length)
        self.runner = Runner(self.mixture, self.cache, self.planner)

    def weights(self, mixture: dict[str, float]) -> tuple[float, ...]:
        return tuple(factor_weights(mixture, self.zoo.bundle.tasks, self.zoo.bundle.scalings))

    def work(self, row: int, start: int, tokens: list[int], mixture: dict[str, float]) -> Work:
        return Work(Segment(row, start, tokens), self.weights(mixture), True)

    def run(self, work: list[Work]) -> list[Any]:
        with torch.inference_mode():
            return self.runner.run(work)


def engine_of(zoo: Zoo, **settings: Any) -> Engine:
    """A running engine over a tiny bundle, to be stopped by whoever asks for it."""
    chosen = EngineSettings(**{"threads": 1, "costs": COSTS, **settings})

    def make() -> Engine:
        mixture = MixtureModel.load(zoo.bundle, dtype=torch.float32)
        return Engine(mixture, tiny.tokenizer(), chosen, name="tiny", scalings=zoo.bundle.scalings)

    return Engine.launch(make, chosen.threads)


def last_logits(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits after ``ids`` by a plain model, float64."""
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
    return found


def distance(found: torch.Tensor, reference: torch.Tensor) -> float:
    """The largest difference, relative to the spread of the reference's logits."""
    return float((found.double() - reference).abs().max() / reference.std())
