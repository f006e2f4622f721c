"""A recipe's merge, ready: its method, its settings, and what had to be gathered first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from compress.errors import InputError
from compress.gathering import gather
from compress.inputs import Inputs
from compress.merge import Merger, MergeSource
from compress.progress import Progress
from compress.recipe import SharedRecipe
from compress.workspace import Workspace

# Task -> token ids of its prompts.
Calibration = Mapping[str, Sequence[Sequence[int]]]


def make_merger(
    shared: SharedRecipe,
    inputs: Inputs,
    work: Workspace,
    relative_to: Path | None,
    calibration: Calibration | None,
    progress: Progress,
) -> Merger:
    """The merge of a recipe over opened inputs; gathers from ``calibration`` where the recipe names prompts.

    Raises InputError where it names them and they are not given.
    """
    method, parameters, gathered = shared.merging, shared.parameters, None
    if method.data is not None and parameters.prompts is not None:
        if calibration is None:
            raise InputError(f"shared.prompts: {method.name} needs the prompts of every task")
        gathered = gather(
            method.data, inputs.finetunes, inputs.base, calibration, work.folder / method.data, progress
        )
    return Merger(method, parameters, MergeSource(inputs.base, inputs.finetunes, relative_to, gathered))
