"""The individuals of an evolutionary search: model folders of float32 weights, on disk and not in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from compress.checkpoints import Checkpoint
from compress.finetunes import Finetune, finetuned_weight
from compress.merge import copy_weights, stretches, write_all
from compress.modelfolder import model_writer
from compress.mutation import Crossover, Strategy
from compress.progress import Progress


def silent(stage: str, done: int, total: int) -> None:
    """No progress: single offspring are too quick to be told of."""


def materialise(finetune: Finetune, base: Checkpoint, folder: Path, stage: str, progress: Progress) -> None:
    """Write a fine-tune, adapter or not, as a model folder of float32 weights; what an interrupted call has
    finished stays."""
    writer = model_writer(base, folder, torch.float32)
    if isinstance(finetune, Checkpoint):
        copy_weights(finetune, writer, stage, progress)
        return

    def one(name: str) -> None:
        writer.write(name, finetuned_weight(finetune, name, base))
        writer.finish(name)

    write_all(one, base.table, writer, stage, progress)


class Population:
    """One individual for every fine-tune of ``base``, below ``folder``.

    An individual is known by the fine-tune's number and by its birth: 0 is the fine-tune itself, else the
    generation that made it. ``births`` are those that live. The folder takes four bytes a parameter for each
    of them, and for one offspring.
    """

    def __init__(self, base: Checkpoint, finetunes: Mapping[str, Finetune], folder: Path) -> None:
        self.base, self.finetunes, self.folder = base, finetunes, folder
        self.names = list(finetunes)
        self.births = [0] * len(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def place(self, individual: int, birth: int) -> Path:
        """Where an individual is, or will be."""
        return self.folder / f"{individual:03d}-{birth:04d}"

    @property
    def folders(self) -> list[Path]:
        """Of the living."""
        return [self.place(i, birth) for i, birth in enumerate(self.births)]

    def prepare(self, births: Sequence[int], progress: Progress) -> None:
        """Let those of ``births`` live, remove all others, and write fine-tunes that are not there yet."""
        self.births = list(births)
        living = {path.name for path in self.folders}
        for path in self.folder.glob("*"):
            if path.name not in living:
                shutil.rmtree(path)
        for i, (task, finetune) in enumerate(self.finetunes.items()):
            if self.births[i] == 0:
                materialise(finetune, self.base, self.place(i, 0), f"reading {task}", progress)

    def breed(
        self,
        individual: int,
        birth: int,
        references: Sequence[int],
        strategy: Strategy,
        *,
        factor: float,
        rate: float,
        seed: int,
    ) -> Path:
        """Write the offspring of an individual, beside it; returns its folder.

        A function of the living and the arguments alone: neither threads nor the order of tensors matter.
        """
        x, *others = (self._open(i) for i in (individual, *references))
        folder = self.place(individual, birth)
        writer = model_writer(self.base, folder, torch.float32)

        def one(name: str) -> None:
            crossover = Crossover(seed, birth, individual, name, rate)
            for start, rows in stretches(self.base.table[name].shape):
                own = x.weight(name, rows)
                mutant = strategy.mutant(factor, own, [other.weight(name, rows) for other in others])
                writer.write(name, crossover.take(own, mutant), start)
            writer.finish(name)

        write_all(one, self.base.table, writer, "offspring", silent)
        return folder

    def replace(self, individual: int, birth: int) -> None:
        """An offspring takes its parent's place."""
        shutil.rmtree(self.place(individual, self.births[individual]))
        self.births[individual] = birth

    def discard(self, individual: int, birth: int) -> None:
        """An offspring is forgotten."""
        shutil.rmtree(self.place(individual, birth))

    def opened(self, folders: Sequence[Path]) -> dict[str, Finetune]:
        """Individuals' folders as fine-tunes, by task."""
        return {
            task: Checkpoint.open(folder, self.base) for task, folder in zip(self.names, folders, strict=True)
        }

    def weights(self, individual: int) -> Iterator[tuple[str, Tensor]]:
        """A living individual's parameters in float32, one after the other."""
        opened = self._open(individual)
        for name in self.base.table:
            yield name, opened.weight(name)

    def _open(self, individual: int) -> Checkpoint:
        return Checkpoint.open(self.folders[individual], self.base)
