"""Two models run side by side on the same text, their units watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from compress.alignment.architectures import Tap
from compress.alignment.calibration import Batch
from compress.alignment.moments import CrossMoments
from compress.alignment.pair import Pair


def correlations(
    pair: Pair, taps: dict[Tap, int], batches: Sequence[Batch], step: Callable[[], None]
) -> dict[Tap, Tensor]:
    """Signed correlation [units of the reference, units of the model] at each of ``taps`` (tap -> units),
    over all tokens that are no padding; ``step`` is called after each batch."""
    moments = {tap: CrossMoments(units) for tap, units in taps.items()}
    with torch.inference_mode():
        for batch in batches:
            with _watched(pair.reference, taps, batch.real) as ours:
                _run(pair.reference, batch)
            with _watched(pair.model, taps, batch.real) as theirs:
                _run(pair.model, batch)
            for tap, running in moments.items():
                running.add(ours.pop(tap), theirs.pop(tap))
            step()
    return {tap: running.correlation() for tap, running in moments.items()}


def _run(model: Any, batch: Batch) -> None:
    model(input_ids=batch.ids, attention_mask=batch.real.long())


@contextmanager
def _watched(model: Any, taps: dict[Tap, int], real: Tensor) -> Iterator[dict[Tap, Tensor]]:
    """What passes the taps while the block runs: tap -> [tokens that are no padding, units]."""
    seen: dict[Tap, Tensor] = {}
    handles = []
    for tap in taps:

        def hook(_: Any, inputs: tuple[Tensor, ...], output: Tensor, tap: Tap = tap) -> None:
            seen[tap] = (inputs[0] if tap.side == "input" else output)[real]

        handles.append(model.get_submodule(tap.module).register_forward_hook(hook))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
