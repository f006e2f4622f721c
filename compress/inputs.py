"""The inputs of a build: opened, checked against each other, and told apart by hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.adapters import Adapter
from compress.bundle import library_versions
from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.finetunes import Finetune, open_finetune
from compress.loading import load_tokenizer
from compress.parallel import each
from compress.recipe import Recipe
from compress.sources import resolve


@dataclass(frozen=True)
class Inputs:
    """The opened inputs of a build. ``sha256`` has the hash of every fine-tune's weights by task."""

    base: Checkpoint
    base_sha256: str
    finetunes: dict[str, Finetune]
    sha256: dict[str, str]

    @property
    def folders(self) -> dict[str, Path]:
        """Of the base and every fine-tune, by ``base`` and task."""
        return {"base": self.base.folder, **{task: f.folder for task, f in self.finetunes.items()}}

    @property
    def hashes(self) -> dict[str, str]:
        """Of the weights of the base and every fine-tune, by ``base`` and task."""
        return {"base": self.base_sha256, **self.sha256}

    @property
    def first_adapter(self) -> str | None:
        return next((task for task, f in self.finetunes.items() if isinstance(f, Adapter)), None)

    def notes(self) -> list[str]:
        """What is odd about the inputs, a sentence each: a checkpoint given twice, one that is the base."""
        found = [
            f"{task}: its weights are the base's, so its task vector is zero and it answers as the base"
            for task, sha256 in self.sha256.items()
            if sha256 == self.base_sha256
        ]
        first: dict[str, str] = {}
        for task, sha256 in self.sha256.items():
            if sha256 in first:
                found.append(
                    f"{first[sha256]} and {task} are one checkpoint, which counts twice in the merge"
                )
            first.setdefault(sha256, task)
        return found


def open_inputs(recipe: Recipe, relative_to: Path | None = None) -> Inputs:
    """Open base and fine-tunes and check that they belong together, before anything is written.

    Raises InputError naming the input that does not fit.
    """
    base = Checkpoint.open(resolve(recipe.base, relative_to))
    load_tokenizer(base.folder)
    finetunes: dict[str, Finetune] = {}
    for expert in recipe.experts:
        finetunes[expert.task] = open_finetune(resolve(expert.checkpoint, relative_to), base)
    base_sha256, *hashes = each(lambda one: one.sha256(), [base, *finetunes.values()])
    return Inputs(base, base_sha256, finetunes, dict(zip(finetunes, hashes, strict=True)))


def refuse_overlap(sources: Sequence[str], output: Path, relative_to: Path | None = None) -> None:
    """Raises InputError when an input lies inside the output folder, which would be replaced."""
    target = output.resolve()
    for source in sources:
        for folder in (Path(source).expanduser(), (relative_to or Path()) / source):
            if folder.exists() and folder.resolve().is_relative_to(target):
                raise InputError(
                    f"{output}: the input {source} lies inside the output folder, which is replaced; "
                    "choose another output folder"
                )


def work_key(
    recipe: Recipe,
    relative_to: Path | None = None,
    calibration: Mapping[str, Sequence[Sequence[int]]] | None = None,
) -> str:
    """All that finished pieces of a build depend on: recipe, library versions, calibration prompts, and the
    input files by name, size and time of change. Their hashes would say it better, and cost a pass over all
    inputs before the first tensor. Raises InputError for an input that does not exist."""
    files = [
        [path.name, path.stat().st_size, path.stat().st_mtime_ns]
        for source in recipe.sources
        for path in sorted(resolve(source, relative_to).glob("*.safetensors"))
    ]
    return json.dumps(
        [recipe.model_dump(exclude={"router"}), library_versions(), calibration, files], sort_keys=True
    )
