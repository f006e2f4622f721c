"""The two zoos that are measured: LoRA adapters and full fine-tunes of the same eight tasks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from compress.recipe import Recipe, read_recipe
from serve.answers import AnswerFile
from serve.commands.progress import Bars, bars
from serve.evaluate import Item, read_data
from serve.settings import EngineSettings

DATA = Path("examples/zoo/data")
RUNS = Path("runs/proof")
RESULTS = Path("benchmarks/results")
LOOKALIKES = ("movies", "products", "tweets", "editorials")
# Prompts a task: to choose settings with, and to score on.
DEV, TEST = 25, 100


@dataclass(frozen=True)
class Zoo:
    """Fine-tunes of one kind, as a recipe names them."""

    name: str
    config: Path

    @property
    def recipe(self) -> Recipe:
        return read_recipe(self.config)

    def merged(self, method: str) -> Path:
        """The plain model of one static merge."""
        return RUNS / self.name / "merged" / method


ZOOS = {"lora": Zoo("lora", Path("configs/zoo.yaml")), "full": Zoo("full", Path("configs/zoo_full_125.yaml"))}


@dataclass(frozen=True)
class Work:
    """What a step works with. answers: of all steps, so that equal weights are asked once."""

    settings: EngineSettings
    answers: AnswerFile
    bars: Bars
    console: Console

    def dev(self, tasks: list[str]) -> dict[str, list[Item]]:
        """Prompts to choose settings with."""
        return read_data(DATA / "dev", tasks, DEV)

    def test(self, tasks: list[str]) -> dict[str, list[Item]]:
        """Prompts that decide nothing."""
        return read_data(DATA / "test", tasks, TEST)


@contextmanager
def working(settings: EngineSettings) -> Iterator[Work]:
    """A step's tools, the answers of earlier runs among them."""
    with AnswerFile.open(RUNS / "answers.jsonl") as answers, bars() as shown:
        yield Work(settings, answers, shown, Console())


def write(path: Path, facts: Any) -> None:
    """Write figures, visible only when complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".partial")
    fresh.write_text(json.dumps(facts, indent=2) + "\n")
    os.replace(fresh, path)
