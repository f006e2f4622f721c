"""The permutations that make one model's units most like another's, part by part.

Hidden units of the feed-forward network and of attention do not feel how the residual stream is ordered,
nor the other way round: every space is matched by itself, from the two models as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from compress.alignment.architectures import FFN, KEY, OUTPUT, QUERY, RESIDUAL, VALUE, Part, Tap
from compress.alignment.assignment import assign
from compress.alignment.calibration import Batch
from compress.alignment.heads import HeadCorrelations, match_heads
from compress.alignment.moments import moment_bytes
from compress.alignment.pair import Pair
from compress.alignment.permutations import Permutations
from compress.alignment.taps import correlations

# Statistics of as many spaces as fit here are gathered in one run over the text.
STATISTICS_BYTES = 2 * 1024**3
# Cosine of weights in place: near 0 between strangers, above 0.9 between fine-tunes of one base.
RELATED = 0.5


@dataclass(frozen=True)
class _Job:
    """Spaces that are matched together: from the correlations at ``taps`` (tap -> units) to their orders."""

    spaces: tuple[str, ...]
    taps: dict[Tap, int]
    solve: Callable[[list[Tensor]], Permutations]

    @property
    def bytes(self) -> int:
        return sum(map(moment_bytes, self.taps.values()))


def match(
    pair: Pair, batches: Sequence[Batch], parts: Collection[Part], progress: Callable[[str, int, int], None]
) -> Permutations:
    """Orders of the model's units, for spaces of ``parts``, by which they match the reference's.

    Left out are spaces whose weights are alike in place, as those of fine-tunes of one base are: what would
    still move there is noise, or a unit that has been trained to something new. Statistics take about 2 GB
    at most, or those of one layer where they alone are more; ``progress`` is told of every batch.
    """
    found: Permutations = {}
    runs = list(_runs([job for job in _jobs(pair, parts) if in_place(pair, job.spaces) < RELATED]))
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress("matching", done, len(runs) * len(batches))

    for jobs in runs:
        taps = {tap: units for job in jobs for tap, units in job.taps.items()}
        seen = correlations(pair, taps, batches, step)
        for job in jobs:
            found |= job.solve([seen.pop(tap) for tap in job.taps])
    return found


def in_place(pair: Pair, spaces: Collection[str]) -> float:
    """The mean cosine, in [−1, 1], of the two models' matrices that have units of ``spaces``, each unit
    compared with the one in its own place."""
    ours, theirs = pair.weights()
    cosines = [
        float(torch.cosine_similarity(tensor.flatten(), theirs[name].flatten(), dim=0))
        for name, tensor in ours.items()
        if tensor.dim() == 2 and set(pair.family.axes(name)) & set(spaces)
    ]
    return sum(cosines) / len(cosines)


def _jobs(pair: Pair, parts: Collection[Part]) -> Iterator[_Job]:
    family, sizes = pair.family, pair.sizes
    units = sizes.spaces()
    if "residual" in parts:
        stream = [*family.stream]
        for layer in range(sizes.layers):
            stream += [_at(tap, layer) for tap in family.layer_stream]
        yield _Job((RESIDUAL,), dict.fromkeys(stream, sizes.hidden), _residual)
    for layer in range(sizes.layers):
        if "ffn" in parts:
            hidden = {_at(family.ffn, layer): sizes.ffn}
            yield _Job((FFN.format(layer=layer),), hidden, partial(_ffn, layer))
        if "attention" in parts:
            few, many = units[VALUE.format(layer=layer)], units[OUTPUT.format(layer=layer)]
            taps = {_at(family.value, layer): few, _at(family.output, layer): many}
            if family.keyed is not None:
                query, key = family.keyed
                taps |= {_at(query, layer): many, _at(key, layer): few}
            spaces = tuple(space.format(layer=layer) for space in (QUERY, KEY, VALUE, OUTPUT))
            yield _Job(spaces, taps, partial(_attention, pair, layer))


def _residual(seen: list[Tensor]) -> Permutations:
    return {RESIDUAL: assign(torch.stack(seen).mean(0))}


def _ffn(layer: int, seen: list[Tensor]) -> Permutations:
    return {FFN.format(layer=layer): assign(seen[0])}


def _attention(pair: Pair, layer: int, seen: list[Tensor]) -> Permutations:
    value, output, *keyed = seen
    correlations = HeadCorrelations(value, output, (keyed[0], keyed[1]) if keyed else None)
    return match_heads(correlations, pair.sizes).permutations(layer)


def _at(tap: Tap, layer: int) -> Tap:
    return replace(tap, module=tap.module.format(layer=layer))


def _runs(jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
    """Jobs grouped, in order, so that the statistics of each group fit."""
    pending: list[_Job] = []
    for job in jobs:
        if pending and sum(one.bytes for one in pending) + job.bytes > STATISTICS_BYTES:
            yield pending
            pending = []
        pending.append(job)
    if pending:
        yield pending
