"""What lies between two models: the loss half-way, and the choice among alignments by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from compress.alignment.architectures import RESIDUAL
from compress.alignment.calibration import Batch, loss
from compress.alignment.pair import Pair
from compress.alignment.permutations import Permutations, apply_one

Choice = Literal["plain", "without residual", "with residual"]


@dataclass(frozen=True)
class Losses:
    """Mean cross-entropies on the calibration text, in nats a token.

    ``midpoints``: of the average of the reference with the model as it is (``plain``), and with each
    alignment that was tried.
    """

    reference: float
    model: float
    midpoints: dict[Choice, float]

    def barrier(self, choice: Choice) -> float:
        """``L(½(A + B)) − ½(L(A) + L(B))``, the loss barrier of Frankle et al. (2020, arXiv:1912.05671) at
        the midpoint; negative where the average is better than the two are on average."""
        return self.midpoints[choice] - (self.reference + self.model) / 2


def interpolate(pair: Pair, permutations: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Parameters ``(1 − share) A + share P(B)`` by name: A the reference, P(B) the model in its new order."""
    ours, theirs = pair.weights()
    return {
        name: tensor.lerp(apply_one(permutations, name, theirs[name], pair.family), share)
        for name, tensor in ours.items()
    }


def choose(
    pair: Pair,
    permutations: Permutations,
    batches: Sequence[Batch],
    progress: Callable[[str, int, int], None],
) -> tuple[Choice, Permutations, Losses]:
    """The alignment whose average with the reference has the lowest loss: none, ``permutations`` without
    those of the residual stream, or all of them; where two are equal, the one that moves less.

    Whether the stream gains by it depends on the models: the MultiBERTs lose (Verma and Elbayad, 2024,
    arXiv:2403.00986). ``progress`` is told of every batch.
    """
    candidates: dict[Choice, Permutations] = {"plain": {}}
    inner = {space: order for space, order in permutations.items() if space != RESIDUAL}
    if inner:
        candidates["without residual"] = inner
    if RESIDUAL in permutations:
        candidates["with residual"] = permutations
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress("measuring", done, (2 + len(candidates)) * len(batches))

    ends = [loss(model, None, batches, step) for model in (pair.reference, pair.model)]
    midpoints: dict[Choice, float] = {
        name: loss(pair.reference, interpolate(pair, one, 0.5), batches, step)
        for name, one in candidates.items()
    }
    best = min(candidates, key=lambda name: midpoints[name])
    return best, candidates[best], Losses(ends[0], ends[1], midpoints)
