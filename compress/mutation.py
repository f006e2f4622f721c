"""How Evolver makes an offspring (Du et al. 2024, arXiv:2406.12208): mutation, then element-wise crossover.

``blend`` is the mutation of the authors' published code. It interpolates, so offspring never leave the
range of the models' own values, element by element. ``rand/1`` and ``current-to-best/1`` are those of
differential evolution (Storn and Price 1997, doi:10.1023/A:1008202821328), which can.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

StrategyName = Literal["blend", "rand/1", "current-to-best/1"]


@dataclass(frozen=True)
class Draw:
    """What references are chosen by: everybody's number but the individual's own, the best of all and the
    best of the others (None where individuals have no scores), and the generations left, this one
    included."""

    random: random.Random
    others: Sequence[int]
    best: int | None
    best_other: int | None
    left: int


@dataclass(frozen=True)
class Strategy:
    """``references(draw)`` chooses individuals; ``mutant(factor, x, their weights)`` combines them with the
    individual's own weights ``x``, all of one shape, without changing its inputs. ``by_score``: it cannot do
    without scores of individuals."""

    formula: str
    fewest: int
    references: Callable[[Draw], list[int]]
    mutant: Callable[[float, Tensor, Sequence[Tensor]], Tensor]
    by_score: bool = False


def _blend_references(draw: Draw) -> list[int]:
    # The published schedule: the later, the more often any other individual instead of the best one.
    if draw.best_other is None or draw.random.random() < 0.5 / draw.left + 0.5:
        return [draw.random.choice(draw.others)]
    return [draw.best_other]


def _best_references(draw: Draw) -> list[int]:
    if draw.best is None:
        raise ValueError("current-to-best/1 needs scores of individuals")
    return [draw.best, *draw.random.sample(draw.others, 2)]


STRATEGIES: dict[StrategyName, Strategy] = {
    "blend": Strategy(
        "(1 − F) x_i + F x_ref",
        2,
        _blend_references,
        lambda f, x, others: (1 - f) * x + f * others[0],
    ),
    "rand/1": Strategy(
        "x_r1 + F (x_r2 − x_r3)",
        4,
        lambda draw: draw.random.sample(draw.others, 3),
        lambda f, x, others: others[0] + f * (others[1] - others[2]),
    ),
    "current-to-best/1": Strategy(
        "x_i + F (x_best − x_i) + F (x_r1 − x_r2)",
        3,
        _best_references,
        lambda f, x, others: x + f * (others[0] - x) + f * (others[1] - others[2]),
        by_score=True,
    ),
}


def chooser(seed: int, generation: int, individual: int) -> random.Random:
    """The random numbers that choose one offspring's references."""
    return random.Random(f"{seed} {generation} {individual}")


class Crossover:
    """Which elements of one parameter an offspring has of its mutant: each with probability ``rate``.

    A function of (seed, generation, individual, parameter) and an element's position alone. ``take`` is
    called for consecutive stretches. Other than in differential evolution no element is forced to cross, as
    in the published code.
    """

    def __init__(self, seed: int, generation: int, individual: int, name: str, rate: float) -> None:
        digest = hashlib.sha256(f"{seed} {generation} {individual} {name}".encode()).digest()
        self._coins = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
        self._rate = rate

    def take(self, x: Tensor, mutant: Tensor) -> Tensor:
        """The offspring's next elements, shaped like ``x``."""
        drawn = self._coins.random(x.numel(), dtype=np.float32) < np.float32(self._rate)
        return torch.where(torch.from_numpy(drawn).view_as(x), mutant, x)
