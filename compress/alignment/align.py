"""From two model folders to the second one's alignment with the first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.alignment.architectures import PARTS, Part
from compress.alignment.barrier import Choice, Losses, choose
from compress.alignment.matching import match
from compress.alignment.pair import calibration, open_pair
from compress.alignment.permutations import Permutations, moved
from compress.errors import InputError


@dataclass(frozen=True)
class Alignment:
    """How the units of ``model`` are to be reordered to match those of ``reference``.

    ``permutations``: space -> order, empty when the alignment abstains; ``parts``: what might be
    reordered, ``chosen``: what is, by ``losses``.
    """

    reference: Path
    model: Path
    parts: tuple[Part, ...]
    permutations: Permutations
    chosen: Choice
    losses: Losses

    @property
    def abstains(self) -> bool:
        """Whether the model is best averaged as it is."""
        return not self.chosen


def align(
    reference: Path,
    model: Path,
    sequences: Sequence[Sequence[int]],
    *,
    parts: Collection[str] = PARTS,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Alignment:
    """Match the units of ``model`` to those of ``reference``, two model folders of one architecture.

    ``sequences``: calibration text as token ids, on which units are compared and the outcome is chosen
    (longer ones are cut). ``parts``: what may be reordered; of these are those that together give the
    average of both models the lowest loss. Where no part lowers it, and where weights are alike in place
    already, as those of fine-tunes of one base are, the alignment abstains. After Verma and Elbayad
    (2024, arXiv:2403.00986) and Ainsworth et al. (2023, arXiv:2209.04836).

    Both models are held in float32, and their average beside them. ``progress`` takes a stage, the steps
    done and their number. Raises InputError for models that are not two of a kind, and for too little text.
    """
    if not parts or set(parts) - set(PARTS):
        raise InputError(f"parts to align: choose one or more of {', '.join(PARTS)}, not {sorted(parts)}")
    pair = open_pair(reference, model)
    batches = calibration(reference, pair.reference.config, sequences)
    chosen_parts = tuple(part for part in PARTS if part in parts)
    found = moved(match(pair, batches, chosen_parts, progress))
    chosen, permutations, losses = choose(pair, found, batches, progress)
    return Alignment(reference, model, chosen_parts, permutations, chosen, losses)
