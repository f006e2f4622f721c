"""The individuals of an evolutionary search: model folders of float32 weights, on disk and not in memory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from compress.checkpoints import Checkpoint
from compress.finetunes import Finetune, finetuned_weight
from compress.merge import copy_weights, write_all
from compress.modelfolder import model_writer
from compress.mutation import Crossover, Strategy
from compress.progress import Progress
from compress.tensorfiles import stretches


def silent(stage: str, done: int, total: int) -> None:
    """No progress: single offspring are too quick to be told of."""


def materialise(finetune: Finetune, base: Checkpoint, folder: Path, stage: str, progress: Progress) -> None:
    """Write a fine-tune, adapter or not, as a model folder of float32 weights; what an interrupted call has
    finished stays."""
    notes = folder.with_name(f"{folder.name}.finished")
    writer = model_writer(base, folder, torch.float32, notes=notes)
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
    generation that made it. ``living``, with their ``births``, are there after ``prepare``. The folder takes
    four bytes a parameter for each of them, and for one offspring.
    """

    def __init__(self, base: Checkpoint, finetunes: Mapping[str, Finetune], folder: Path) -> None:
        self.base, self.finetunes, self.folder = base, finetunes, folder
        self.names = list(finetunes)
        self.living: list[Checkpoint] = []
        self.births: list[int] = []

    def __len__(self) -> int:
        return len(self.names)

    def prepare(self, births: Sequence[int], progress: Progress) -> None:
        """Let those of ``births`` live, remove all others, and write fine-tunes that are not there yet."""
        self.births = list(births)
        places = [self._place(i, birth) for i, birth in enumerate(births)]
        for path in self.folder.glob("*"):
            if path.is_dir() and path not in places:
                shutil.rmtree(path)
        for place, birth, (task, finetune) in zip(places, births, self.finetunes.items(), strict=True):
            if birth == 0:
                materialise(finetune, self.base, place, f"reading {task}", progress)
        self.living = [Checkpoint.open(place, self.base) for place in places]

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
    ) -> Checkpoint:
        """Write the offspring of an individual, beside it.

        A function of the living and the arguments alone: neither threads nor the order of tensors matter.
        """
        x, *others = (self.living[i] for i in (individual, *references))
        folder = self._place(individual, birth)
        writer = model_writer(self.base, folder, torch.float32)

        def one(name: str) -> None:
            crossover = Crossover(seed, birth, individual, name, rate)
            for start, rows in stretches(self.base.table[name].shape):
                own = x.weight(name, rows)
                mutant = strategy.mutant(factor, own, [other.weight(name, rows) for other in others])
                writer.write(name, crossover.take(own, mutant), start)
            writer.finish(name)

        write_all(one, self.base.table, writer, "offspring", silent)
        return Checkpoint.open(folder, self.base)

    def replace(self, individual: int, birth: int, offspring: Checkpoint) -> None:
        """An offspring takes its parent's place."""
        shutil.rmtree(self.living[individual].folder)
        self.living[individual], self.births[individual] = offspring, birth

    def discard(self, offspring: Checkpoint) -> None:
        """An offspring is forgotten."""
        shutil.rmtree(offspring.folder)

    def _place(self, individual: int, birth: int) -> Path:
        return self.folder / f"{individual:03d}-{birth:04d}"
