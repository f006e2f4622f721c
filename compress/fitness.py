"""What a search measures and how it stands: the objective, its evaluations, and their file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel


@dataclass(frozen=True)
class Objective:
    """What is optimised: ``measure`` scores the model in a folder."""

    name: str
    measure: Callable[[Path], float]
    larger_is_better: bool

    def score(self, folder: Path) -> float | None:
        """The score; None, the worst of all, where ``measure`` gives no finite number."""
        value = float(self.measure(folder))
        return value if math.isfinite(value) else None

    def better(self, new: float | None, old: float | None) -> bool:
        """Whether ``new`` is strictly better than ``old``."""
        return self._rank(new) > self._rank(old)

    def best(self, scores: Sequence[float | None]) -> int:
        """The position of the best score, the first of equals."""
        return max(range(len(scores)), key=lambda i: self._rank(scores[i]))

    def _rank(self, score: float | None) -> float:
        if score is None:
            return -math.inf
        return score if self.larger_is_better else -score


class Evaluation(BaseModel):
    """One call of the objective. Generation 0 are the fine-tunes, and with a merge their merge, which has no
    ``individual``. ``references``: whose weights were mixed in. ``score``: None where it was no finite
    number. ``kept``: whether the model stayed."""

    seed: int
    generation: int
    individual: int | None
    task: str | None
    references: list[str] = []
    score: float | None
    kept: bool


class History:
    """All evaluations of a search, in order, in a JSON Lines file that outlives a kill."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().split("\n")[:-1] if path.is_file() else []
        self.evaluations = [Evaluation.model_validate_json(line) for line in lines]
        # What a killed writer left of its last line goes.
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(line + "\n" for line in lines))

    def append(self, evaluation: Evaluation) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(evaluation.model_dump()) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.evaluations.append(evaluation)


@dataclass
class Standing:
    """How the search stands: scores of the fine-tunes, of the individuals (without a merge), of the merge of
    the whole population before and now (with one), and every living individual's generation."""

    parents: list[float | None] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    first_merge: float | None = None
    merge: float | None = None
    births: list[int] = field(default_factory=list)

    def add(self, evaluation: Evaluation, *, merging: bool) -> None:
        """Take one more evaluation into account."""
        i, score = evaluation.individual, evaluation.score
        if i is None:
            self.first_merge = self.merge = score
        elif evaluation.generation == 0:
            self.parents.append(score)
            self.scores.append(score)
            self.births.append(0)
        elif evaluation.kept:
            self.births[i] = evaluation.generation
            if merging:
                self.merge = score
            else:
                self.scores[i] = score
