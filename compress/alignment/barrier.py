"""What lies between two models: the loss half-way, and the choice among alignments by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from torch import Tensor

from compress.alignment.architectures import PARTS, Part, part_of
from compress.alignment.calibration import Batch, loss
from compress.alignment.pair import Pair
from compress.alignment.permutations import Permutations, apply_one

# Parts that are reordered together; () is the plain average.
Choice = tuple[Part, ...]


@dataclass(frozen=True)
class Losses:
    """Mean cross-entropies on the calibration text, in nats a token.

    ``midpoints``: of the average of the reference with the model, by what was reordered before.
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
    """The parts that, reordered by ``permutations``, give the average with the reference the lowest loss; of
    equals, the fewest. All sets of parts are tried, none included, each in whole.

    Whether a part gains by it depends on the models: the residual stream of the MultiBERTs loses (Verma and
    Elbayad, 2024, arXiv:2403.00986), and attention may where rotary positions keep queries and keys apart.
    ``progress`` is told of every batch.
    """
    parts = [part for part in PARTS if any(part_of(space) == part for space in permutations)]
    candidates: dict[Choice, Permutations] = {
        some: {space: order for space, order in permutations.items() if part_of(space) in some}
        for count in range(len(parts) + 1)
        for some in combinations(parts, count)
    }
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress("measuring", done, (2 + len(candidates)) * len(batches))

    ends = [loss(model, None, batches, step) for model in (pair.reference, pair.model)]
    midpoints: dict[Choice, float] = {
        some: loss(pair.reference, interpolate(pair, one, 0.5), batches, step)
        for some, one in candidates.items()
    }
    best = min(candidates, key=lambda some: midpoints[some])
    return best, candidates[best], Losses(ends[0], ends[1], midpoints)
