"""What an evolutionary search ends in: one plain model folder, with its history and honest scores."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from compress.bundle import library_versions
from compress.card import merge_card
from compress.checkpoints import Checkpoint
from compress.evolve import EvolveSettings, Notify, Search
from compress.finetunes import Finetune
from compress.fitness import Evaluation, History, Objective, Standing
from compress.inputs import Inputs, open_inputs
from compress.merge import Merger, MergeSource, copy_weights
from compress.merger import Calibration, make_merger
from compress.merging.average import AVERAGE, AverageParameters
from compress.modelfolder import model_writer
from compress.mutation import STRATEGIES
from compress.population import Population, materialise, silent
from compress.progress import Progress
from compress.recipe import Recipe
from compress.workspace import Workspace

HISTORY = "evolve.json"
# Scores on the test split by their names.
Examine = Callable[[Path], dict[str, float]]


class Scored(BaseModel):
    """One model of the report, with the objective on the development split and scores on the test split."""

    name: str
    dev: float | None
    test: dict[str, float | None]


@dataclass(frozen=True)
class Evolved:
    """``scored``: the best fine-tune, the average, the recipe's merge where it is another, the evolved model,
    in this order. ``notes``: what is odd about inputs and scores, a sentence each."""

    scored: list[Scored]
    history: list[Evaluation]
    notes: list[str]


class _Parents(MergeSource):
    """Individuals in the places of the fine-tunes that they descend from. What was gathered from prompts is
    the fine-tunes' own, as in the published code: gathering anew for every offspring would cost more than the
    search."""

    def __init__(self, origin: MergeSource, living: Mapping[str, Finetune]) -> None:
        super().__init__(origin.base, living, origin.relative_to, origin.gathered)
        self._origin = origin

    def sha256(self, task: str) -> str:
        return self._origin.sha256(task)


def evolve_model(
    recipe: Recipe,
    settings: EvolveSettings,
    folder: Path,
    work: Workspace,
    *,
    objective: Objective,
    examine: Examine,
    relative_to: Path | None = None,
    calibration: Calibration | None = None,
    notify: Notify,
    progress: Progress,
) -> Evolved:
    """Evolve the recipe's fine-tunes and write the result into the empty ``folder``: a Hugging Face model
    with a card and ``evolve.json``.

    Without a merge the result is the best individual, with one the merge of the last population.
    ``objective`` alone decides. ``examine`` is called after the search, once for each model of the report.
    What ``work`` has evaluated is not evaluated again, and ends in the same bytes. Raises InputError for
    inputs that cannot be used.
    """
    settings.check(len(recipe.experts))
    inputs = open_inputs(recipe, relative_to)
    merger = (
        make_merger(settings.merge, inputs, work, relative_to, calibration, progress)
        if settings.merge
        else _average(inputs)
    )
    dtype: torch.dtype = getattr(torch, recipe.output.dtype)
    population = Population(inputs.base, inputs.finetunes, work.folder / "population")

    def merge(individuals: Sequence[Checkpoint], target: Path) -> None:
        source = _Parents(merger.source, dict(zip(population.names, individuals, strict=True)))
        _write(Merger(merger.method, merger.parameters, source), target, dtype)

    history = History(work.folder / "history.jsonl")
    standing = Search(population, settings, objective, history, merge).run(notify, progress)
    if settings.merge:
        merge(population.living, folder)
    else:
        best = population.living[objective.best(standing.scores)]
        copy_weights(best, model_writer(inputs.base, folder, dtype), "evolved", silent)
    report = _Report(inputs, objective, examine, work.folder / "examined", dtype)
    scored = report.parents(standing)
    if settings.merge and not _is_average(merger):
        scored.append(report.merge(merger, merger.method.title, standing.first_merge))
    scored.append(report.add("evolved", folder))
    evolved = Evolved(scored, history.evaluations, inputs.notes() + _unscored(history.evaluations, objective))
    _describe(folder, recipe, settings, objective, inputs, evolved)
    return evolved


class _Report:
    """Scores of finished models; each is written, examined once and removed."""

    def __init__(
        self, inputs: Inputs, objective: Objective, examine: Examine, place: Path, dtype: torch.dtype
    ) -> None:
        self._inputs, self._objective, self._examine = inputs, objective, examine
        self._place, self._dtype = place, dtype
        # An interrupted report's, of which the finished parts may be another model's.
        shutil.rmtree(place, ignore_errors=True)

    def parents(self, standing: Standing) -> list[Scored]:
        """The best fine-tune and the average of all."""
        best = self._objective.best(standing.parents)
        task = list(self._inputs.finetunes)[best]
        make = partial(
            materialise, self._inputs.finetunes[task], self._inputs.base, stage="", progress=silent
        )
        make(folder=self._place)
        first = self._examined(f"best fine-tune: {task}", standing.parents[best])
        _write(_average(self._inputs), self._place, self._dtype)
        return [first, self._examined("average", self._objective.score(self._place))]

    def merge(self, merger: Merger, name: str, dev: float | None) -> Scored:
        """The merge of the fine-tunes themselves."""
        _write(merger, self._place, self._dtype)
        return self._examined(name, dev)

    def add(self, name: str, folder: Path) -> Scored:
        """A model that stays, as it was written."""
        return Scored(name=name, dev=self._objective.score(folder), test=self._test(folder))

    def _examined(self, name: str, dev: float | None) -> Scored:
        scored = Scored(name=name, dev=dev, test=self._test(self._place))
        shutil.rmtree(self._place)
        return scored

    def _test(self, folder: Path) -> dict[str, float | None]:
        scores = self._examine(folder)
        return {name: score if math.isfinite(score) else None for name, score in scores.items()}


def _average(inputs: Inputs) -> Merger:
    return Merger(AVERAGE, AverageParameters(), MergeSource(inputs.base, inputs.finetunes))


def _is_average(merger: Merger) -> bool:
    return merger.method is AVERAGE and merger.parameters == AverageParameters()


def _write(merger: Merger, folder: Path, dtype: torch.dtype) -> None:
    merger.write(model_writer(merger.source.base, folder, dtype), "merge", silent)


def _unscored(evaluations: Sequence[Evaluation], objective: Objective) -> list[str]:
    return [
        f"generation {one.generation}, {one.task or 'merge'}: its {objective.name} is no finite number, "
        "which counts as the worst"
        for one in evaluations
        if one.score is None
    ]


def _describe(
    folder: Path,
    recipe: Recipe,
    settings: EvolveSettings,
    objective: Objective,
    inputs: Inputs,
    evolved: Evolved,
) -> None:
    facts: dict[str, Any] = {
        "settings": settings.model_dump(),
        "objective": {"name": objective.name, "larger_is_better": objective.larger_is_better},
        "scores": [one.model_dump() for one in evolved.scored],
        "notes": evolved.notes,
        "recipe": recipe.model_dump(exclude={"exclusive", "router"}),
        "sha256": inputs.hashes,
        "versions": library_versions(),
        "history": [one.model_dump() for one in evolved.history],
    }
    (folder / HISTORY).write_text(json.dumps(facts, indent=2) + "\n")
    card = merge_card(
        "An evolved model",
        recipe,
        inputs.folders,
        inputs.hashes,
        made=_made(settings, objective, evolved.scored),
    )
    (folder / "README.md").write_text(card)


def _made(settings: EvolveSettings, objective: Objective, scored: Sequence[Scored]) -> str:
    """How the model was made and what it scores, in Markdown."""
    formula = STRATEGIES[settings.strategy].formula
    if settings.merge:
        method = settings.merge.merging
        result = f"the merge of the last population by [{method.title}]({method.paper}), `{method.formula}`"
    else:
        result = "the best individual of the last population, without the recipe's merge"
    tests = list(scored[0].test)
    columns = ["model", f"development {objective.name}", *(f"test {name}" for name in tests)]
    lines = [
        f"Method: [Evolver](https://arxiv.org/abs/2406.12208), {settings.generations} generations of "
        f"`{formula}` with F = {settings.factor:g} and CR = {settings.crossover:g}; this is {result}. "
        f"Selected on development prompts; test prompts decided nothing. `{HISTORY}` has every evaluation.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
    ]
    for one in scored:
        values = [one.dev, *(one.test[name] for name in tests)]
        cells = ["–" if value is None else f"{value:.4f}" for value in values]
        lines.append("| " + " | ".join([one.name, *cells]) + " |")
    return "\n".join(lines)
