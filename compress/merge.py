"""Merging opened inputs: any parameter on demand, or a whole checkpoint, stretch by stretch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.finetunes import Finetune, task_vector
from compress.merging.method import Group, MergeMethod
from compress.parallel import WORKERS, each
from compress.parameters import Parameter
from compress.progress import Progress
from compress.shards import ShardWriter
from compress.tensorfiles import stretches


class MergeSource:
    """Base and fine-tunes, parameter by parameter; see ``compress.merging.method.Source``.

    ``relative_to``: folder of the recipe. ``gathered``: what this build gathered from prompts.
    """

    def __init__(
        self,
        base: Checkpoint,
        finetunes: Mapping[str, Finetune],
        relative_to: Path | None = None,
        gathered: Path | None = None,
    ) -> None:
        self.base, self.finetunes, self.relative_to, self.gathered = base, finetunes, relative_to, gathered
        # An adapter's task vector is a product, whose rounding may depend on how many rows are made at once:
        # a survey in stretches and a merge of the whole would not see the same numbers.
        self._in_stretches = all(isinstance(f, Checkpoint) for f in finetunes.values())

    @property
    def tasks(self) -> list[str]:
        return list(self.finetunes)

    @property
    def table(self) -> dict[str, Parameter]:
        return self.base.table

    def groups(self, name: str, *, whole: bool = False) -> Iterator[Group]:
        """One parameter, in consecutive stretches or at once."""
        for start, rows in self._stretches(name, whole=whole):
            base = self.base.weight(name, rows)
            vectors = {task: self._vector(task, name, base, rows) for task in self.finetunes}
            yield Group(self.table[name], base, vectors, start)

    def vector(self, task: str, name: str) -> Iterator[tuple[int, Tensor]]:
        """One parameter of one task vector: (position of the first element, stretch), in order."""
        for start, rows in self._stretches(name):
            yield start, self._vector(task, name, self.base.weight(name, rows), rows)

    def rank_bound(self, name: str) -> int | None:
        """The sum of the ranks of one parameter's task vectors; None where one has no factors."""
        bound = 0
        for finetune in self.finetunes.values():
            factors = finetune.low_rank(name)
            if factors is not None:
                bound += factors.rank
            elif isinstance(finetune, Checkpoint) or finetune.dense(name, self.base) is not None:
                return None
        return bound

    def sha256(self, task: str) -> str:
        return self.finetunes[task].sha256()

    def statistics(self, path: str | None) -> Path:
        if path is None:
            if self.gathered is None:
                raise InputError(
                    "shared.prompts: nothing was gathered from them; use twinserve build or merge"
                )
            return self.gathered
        for folder in (Path(path), (self.relative_to or Path()) / path):
            if folder.is_dir():
                return folder
        raise InputError(f"shared: {path}: no such folder")

    def _vector(self, task: str, name: str, base: Tensor, rows: slice | None) -> Tensor:
        finetune = self.finetunes[task]
        if isinstance(finetune, Checkpoint):
            return finetune.weight(name, rows).sub_(base)
        vector = task_vector(finetune, name, self.base)
        return torch.zeros_like(base) if vector is None else vector

    def _stretches(self, name: str, *, whole: bool = False) -> Iterator[tuple[int, slice | None]]:
        if whole or not self._in_stretches:
            return iter([(0, None)])
        return stretches(self.table[name].shape)


class Merger:
    """A method and its settings over opened inputs."""

    def __init__(self, method: MergeMethod, parameters: Any, source: MergeSource) -> None:
        self.method, self.parameters, self.source = method, parameters, source

    @cached_property
    def facts(self) -> Any:
        """What the method must know of all inputs before the first parameter."""
        return None if self.method.survey is None else self.method.survey(self.source, self.parameters)

    def merged(self, name: str) -> Tensor:
        """One merged parameter, float32, shaped as in the table."""
        (group,) = self.source.groups(name, whole=True)
        return self.method.merge(group, self.parameters, self.facts)

    def write(self, writer: ShardWriter, stage: str, progress: Progress) -> None:
        """Merge all parameters that ``writer`` has not finished."""
        facts, whole = self.facts, self.method.scope == "tensor"

        def one(name: str) -> None:
            for group in self.source.groups(name, whole=whole):
                writer.write(name, self.method.merge(group, self.parameters, facts), group.start)
            writer.finish(name)

        write_all(one, self.source.table, writer, stage, progress, workers=1 if whole else WORKERS)


def copy_weights(checkpoint: Checkpoint, writer: ShardWriter, stage: str, progress: Progress) -> None:
    """Write all parameters of a checkpoint that ``writer`` has not finished."""
    source = MergeSource(checkpoint, {})

    def one(name: str) -> None:
        for group in source.groups(name):
            writer.write(name, group.base, group.start)
        writer.finish(name)

    write_all(one, checkpoint.table, writer, stage, progress)


def write_all(
    one: Callable[[str], None],
    table: Mapping[str, Parameter],
    writer: ShardWriter,
    stage: str,
    progress: Progress,
    workers: int = WORKERS,
) -> None:
    """Call ``one`` for every unfinished parameter and close ``writer``. What is finished when a call fails
    stays finished."""
    left = [name for name in table if name not in writer.finished]
    # Large ones first: at the end no thread waits for another's embedding.
    left.sort(key=lambda name: -torch.Size(table[name].shape).numel())
    for done, _ in enumerate(each(one, left, workers), start=len(table) - len(left) + 1):
        progress(stage, done, len(table))
    writer.close()
