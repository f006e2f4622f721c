"""Factored or composed: how the mixtures of one forward pass are computed. Never changes an answer
beyond rounding."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from serve.mixture import MixtureModel

Weights = tuple[float, ...]
# Soft mixtures are many; counting them must not grow without end.
MOST_COUNTED = 4096


class Planner:
    """Chooses per forward pass and keeps composed weights.

    A batch of different mixtures is always factored. A batch of one mixture uses its composed
    weights if they are kept, and composes them once the mixture has served as many tokens as a
    copy needs to repay itself: then, whatever comes, no more than twice the best possible cost
    was spent (the rent-or-buy argument). At most ``copies`` are kept, the least recently used one
    goes first; the ones in ``pinned`` are made at once and never go, beyond that number.
    """

    def __init__(
        self,
        mixture: MixtureModel,
        *,
        copies: int,
        mode: Literal["auto", "factored", "composed"] = "auto",
    ) -> None:
        self.mixture, self.copies, self.mode = mixture, copies, mode
        self.passes = {"plain": 0, "factored": 0, "composed": 0}
        self._kept: OrderedDict[Weights, dict[str, Tensor]] = OrderedDict()
        self._pinned: dict[Weights, dict[str, Tensor]] = {}
        self._served: dict[Weights, int] = {}
        self._repaid = mixture.tokens_to_repay()

    def pin(self, weights: Weights) -> None:
        """Keep a composed copy of this mixture for good."""
        if self.mode != "factored" and any(weights):
            self._pinned[weights] = self.mixture.compose(weights)

    @property
    def composed_bytes(self) -> int:
        """Bytes of all composed copies."""
        copies = [*self._kept.values(), *self._pinned.values()]
        return sum(tensor.nbytes for copy in copies for tensor in copy.values())

    @contextmanager
    def apply(self, rows: Sequence[Weights], tokens: int) -> Iterator[None]:
        """Run forward passes of one batch; ``rows`` holds each row's g, ``tokens`` counts all rows'."""
        if not any(any(row) for row in rows):
            self.passes["plain"] += 1
            yield
            return
        copy = self._copy(rows[0], tokens) if all(row == rows[0] for row in rows) else None
        if copy is not None:
            self.passes["composed"] += 1
            with self.mixture.composed(copy):
                yield
            return
        self.passes["factored"] += 1
        weight = next(self.mixture.model.parameters())
        g = torch.tensor(rows, dtype=weight.dtype, device=weight.device)
        with self.mixture.factored(g):
            yield

    def _copy(self, weights: Weights, tokens: int) -> dict[str, Tensor] | None:
        if weights in self._pinned:
            return self._pinned[weights]
        if weights in self._kept:
            self._kept.move_to_end(weights)
            return self._kept[weights]
        if self.mode == "factored" or self.copies == 0:
            return None
        if self.mode == "auto":
            if len(self._served) >= MOST_COUNTED:
                self._served.clear()
            self._served[weights] = self._served.get(weights, 0) + tokens
            if self._served[weights] < self._repaid:
                return None
        while len(self._kept) >= self.copies:
            self._kept.popitem(last=False)
        # Counting starts again for everybody, so that rivals for the last copy do not evict each
        # other at every turn.
        self._served.clear()
        self._kept[weights] = self.mixture.compose(weights)
        return self._kept[weights]
