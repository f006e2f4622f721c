"""Evolver's search (Du et al. 2024, arXiv:2406.12208): fine-tunes of one base evolve by a measured score.

In each generation each individual, in random order, gets an offspring, which takes its place where it
scores strictly better. Unlike in the authors' published code, one objective is all that is ever looked at:
nothing of a test split decides what is kept or returned.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.fitness import Evaluation, History, Objective, Standing
from compress.mutation import STRATEGIES, Draw, StrategyName, chooser
from compress.population import Population
from compress.progress import Progress
from compress.recipe import SharedRecipe

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class EvolveSettings(BaseModel):
    """``factor``: F, how far a mutant goes; ``crossover``: CR, the share of elements that an offspring has of
    its mutant; ``merge``: what is scored is the merge of the whole population, and not single individuals."""

    model_config = ConfigDict(extra="forbid")
    strategy: StrategyName = "blend"
    factor: Share = 0.5
    crossover: Share = 0.5
    generations: int = Field(10, ge=1, le=9999)
    seed: int = Field(0, ge=0)
    merge: SharedRecipe | None = None

    @model_validator(mode="after")
    def _scored(self) -> EvolveSettings:
        if self.merge is not None and STRATEGIES[self.strategy].by_score:
            raise ValueError(
                f"strategy {self.strategy} needs a best individual, and with a merge only the merge has a "
                "score: use blend or rand/1, or evolve without a merge"
            )
        return self

    def check(self, models: int) -> None:
        """Raises InputError where the strategy needs more models than there are."""
        if models < 2:
            raise InputError(f"experts: evolution needs at least 2 fine-tunes, not {models}")
        if models < STRATEGIES[self.strategy].fewest:
            fitting = [
                name
                for name, strategy in STRATEGIES.items()
                if strategy.fewest <= models and not (strategy.by_score and self.merge)
            ]
            raise InputError(
                f"strategy {self.strategy} needs at least {STRATEGIES[self.strategy].fewest} fine-tunes, and "
                f"there are {models}: use {' or '.join(fitting)}"
            )


def steps(models: int, settings: EvolveSettings) -> list[tuple[int, int | None]]:
    """Every evaluation of a search in order, as (generation, individual): its length is the budget, N + N T,
    and one more for the first merge."""
    found: list[tuple[int, int | None]] = [(0, i) for i in range(models)]
    if settings.merge is not None:
        found.append((0, None))
    for generation in range(1, settings.generations + 1):
        order = list(range(models))
        random.Random(f"{settings.seed} {generation}").shuffle(order)
        found += [(generation, i) for i in order]
    return found


# (one evaluation, how the search stands after it, which of how many evaluations it is)
Notify = Callable[[Evaluation, Standing, int, int], None]


class Search:
    """One search; ``run`` goes on after what ``history`` has.

    ``merge(individuals, target)`` writes their merge into the folder ``target``; it is called where
    ``settings`` name one.
    """

    def __init__(
        self,
        population: Population,
        settings: EvolveSettings,
        objective: Objective,
        history: History,
        merge: Callable[[Sequence[Checkpoint], Path], None],
    ) -> None:
        settings.check(len(population))
        self.population, self.settings, self.objective = population, settings, objective
        self.history, self.standing, self._merge = history, Standing(), merge
        self.steps = steps(len(population), settings)

    def run(self, notify: Notify, progress: Progress) -> Standing:
        """All evaluations that are left. Raises InputError where no fine-tune has a finite score."""
        done = self.history.evaluations
        for number, evaluation in enumerate(done, start=1):
            self.standing.add(evaluation, merging=self._merging)
            notify(evaluation, self.standing, number, len(self.steps))
        births = self.standing.births
        self.population.prepare(births + [0] * (len(self.population) - len(births)), progress)
        for generation, individual in self.steps[len(done) :]:
            if generation == 0 or individual is None:
                evaluation = self._first(individual)
            else:
                self._refuse_unscored()
                evaluation = self._offspring(generation, individual)
            notify(evaluation, self.standing, len(self.history.evaluations), len(self.steps))
        return self.standing

    def _refuse_unscored(self) -> None:
        if all(score is None for score in self.standing.parents):
            raise InputError(
                f"{self.objective.name} is no finite number for any of the fine-tunes: check them, and the "
                "development prompts"
            )

    @property
    def _merging(self) -> bool:
        return self.settings.merge is not None

    def _first(self, individual: int | None) -> Evaluation:
        """Score a fine-tune, or the merge of all."""
        living = self.population.living
        task = None if individual is None else self.population.names[individual]
        score = (
            self._merged(living) if individual is None else self.objective.score(living[individual].folder)
        )
        return self._note(
            Evaluation(
                seed=self.settings.seed,
                generation=0,
                individual=individual,
                task=task,
                score=score,
                kept=True,
            )
        )

    def _offspring(self, generation: int, individual: int) -> Evaluation:
        """Breed, score, and keep whichever is better."""
        settings, population = self.settings, self.population
        strategy = STRATEGIES[settings.strategy]
        references = strategy.references(self._draw(generation, individual))
        offspring = population.breed(
            individual,
            generation,
            references,
            strategy,
            factor=settings.factor,
            rate=settings.crossover,
            seed=settings.seed,
        )
        if self._merging:
            living = population.living
            score = self._merged([*living[:individual], offspring, *living[individual + 1 :]])
            kept = self.objective.better(score, self.standing.merge)
        else:
            score = self.objective.score(offspring.folder)
            kept = self.objective.better(score, self.standing.scores[individual])
        evaluation = Evaluation(
            seed=settings.seed,
            generation=generation,
            individual=individual,
            task=population.names[individual],
            references=[population.names[i] for i in references],
            score=score,
            kept=kept,
        )
        # Before any folder goes: a kill in between leaves one too many, never one too few.
        self._note(evaluation)
        if kept:
            population.replace(individual, generation, offspring)
        else:
            population.discard(offspring)
        return evaluation

    def _draw(self, generation: int, individual: int) -> Draw:
        others = [i for i in range(len(self.population)) if i != individual]
        best = best_other = None
        if not self._merging:
            scores = self.standing.scores
            best = self.objective.best(scores)
            best_other = others[self.objective.best([scores[i] for i in others])]
        return Draw(
            chooser(self.settings.seed, generation, individual),
            others,
            best,
            best_other,
            self.settings.generations - generation + 1,
        )

    def _merged(self, individuals: Sequence[Checkpoint]) -> float | None:
        trial = self.population.folder / "merge"
        try:
            self._merge(individuals, trial)
            return self.objective.score(trial)
        finally:
            shutil.rmtree(trial, ignore_errors=True)

    def _note(self, evaluation: Evaluation) -> Evaluation:
        self.history.append(evaluation)
        self.standing.add(evaluation, merging=self._merging)
        return evaluation
