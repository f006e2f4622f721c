"""The loss on the way from one model to the other, for every part that can be aligned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.alignment.text import Text
from compress.alignment.architectures import PARTS, part_of
from compress.alignment.barrier import Choice, choose, interpolate
from compress.alignment.calibration import Batch, loss
from compress.alignment.matching import match
from compress.alignment.pair import Pair, calibration, open_pair
from compress.alignment.permutations import Permutations, moved

SHARES = [round(0.05 * step, 2) for step in range(21)]
# Pieces to measure on: each of the curves takes as many forward passes as there are shares.
HELDOUT = 1000


def curves(first: Path, second: Path, text: Text, step: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Held-out loss in nats a token along the line between two models, the second one aligned in parts;
    their barriers; and what ``twinserve align`` chooses on the calibration text."""
    pair = open_pair(first, second)
    config = pair.reference.config
    batches = calibration(first, config, text.calibration)
    heldout = calibration(first, config, text.heldout[:HELDOUT])
    found = moved(match(pair, batches, PARTS, step))
    chosen, _, losses = choose(pair, found, batches, step)
    lines: dict[str, list[float]] = {}
    for number, some in enumerate(losses.midpoints):
        permutations = {space: order for space, order in found.items() if part_of(space) in some}
        lines[name_of(some)] = _line(pair, permutations, heldout)
        step("curves", number + 1, len(losses.midpoints))
    return {
        "chosen": name_of(chosen),
        "calibration": {name_of(some): losses.barrier(some) for some in losses.midpoints},
        "share": SHARES,
        "loss": lines,
        "barrier": {name: max(line) - (line[0] + line[-1]) / 2 for name, line in lines.items()},
        "tokens": {"calibration": _tokens(batches), "heldout": _tokens(heldout)},
    }


def name_of(some: Choice) -> str:
    """What a set of parts is called in results."""
    return {(): "plain", PARTS: "all"}.get(some, " + ".join(some))


def _line(pair: Pair, permutations: Permutations, batches: list[Batch]) -> list[float]:
    return [loss(pair.reference, interpolate(pair, permutations, share), batches) for share in SHARES]


def _tokens(batches: list[Batch]) -> int:
    return sum(int(batch.real.sum()) for batch in batches)
