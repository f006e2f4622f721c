"""Scores of ordinary models: the base, a merge, every task's own fine-tune."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.proof.zoo import Work
from compress.checkpoints import Checkpoint
from compress.inputs import open_inputs
from compress.recipe import Recipe
from serve.answers import Book
from serve.comparison import Data
from serve.evaluate import Scores, score
from serve.plainmodels import load, load_finetune, plain_engine
from serve.request import Target


def base_scores(work: Work, recipe: Recipe, items: Data) -> Scores:
    """The pretrained base's."""
    base = open_inputs(recipe).base
    return _scored(work, "base", partial(load, base.folder, work.settings), base.sha256(), base.folder, items)


def merge_scores(work: Work, folder: Path, items: Data) -> Scores:
    """Those of a merge, a plain model."""
    merged = Checkpoint.open(folder)
    return _scored(work, folder.name, partial(load, folder, work.settings), merged.sha256(), folder, items)


def own_scores(work: Work, recipe: Recipe, items: Data) -> Scores:
    """Each task's own fine-tune's."""
    inputs = open_inputs(recipe)
    base = inputs.base.folder
    own = Scores()
    for task, finetune in inputs.finetunes.items():
        make = partial(load_finetune, finetune.folder, base, work.settings)
        weights = f"{inputs.base_sha256} + {inputs.sha256[task]}"
        own.hits |= _scored(work, f"own: {task}", make, weights, base, {task: items[task]}).hits
    return own


def _scored(
    work: Work, name: str, make: Callable[[], Any], weights: str, tokenizer: Path, items: Data
) -> Scores:
    dtype = str(work.settings.torch_dtype()).removeprefix("torch.")
    shown = work.bars.stage(name, sum(map(len, items.values())))
    book = Book(work.answers, f"{weights} {dtype}")
    with plain_engine(make, tokenizer, work.settings) as engine:
        return score(engine, items, lambda _: Target("static"), shown, book)
