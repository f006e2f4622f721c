"""The static merges, each with the settings that score best on development prompts, as plain models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.proof.zoo import DATA, RESULTS, RUNS, Work, Zoo, write
from compress.checkpoints import Checkpoint
from compress.evolve import EvolveSettings
from compress.evolvedmodel import evolve_model
from compress.finetunes import open_finetune
from compress.fitness import Objective
from compress.gathering import gather_grams
from compress.inputs import work_key
from compress.loading import load_model, load_tokenizer
from compress.mergedmodel import merge_model
from compress.recipe import Recipe, SharedRecipe
from compress.sources import resolve
from compress.staging import staged
from compress.workspace import workspace
from serve.answers import Book
from serve.commands.calibration import read_ids
from serve.evaluate import score
from serve.objectives import Exam
from serve.plainmodels import plain_engine
from serve.request import Target

# What every method is merged with, and where it has one, the scalings that its result is tried with.
SCALINGS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
GRID: dict[str, tuple[list[dict[str, Any]], Sequence[float]]] = {
    "average": ([{}], ()),
    "task_arithmetic": ([{}], SCALINGS),
    "ties": ([{"density": 0.1}, {"density": 0.2}, {"density": 0.4}], (0.5, 1.0, 1.5, 2.0, 3.0)),
    "dare": ([{"density": 0.2}, {"density": 0.5}], SCALINGS[:5]),
    "regmean": ([{"alpha": 0.7}, {"alpha": 0.9}, {"alpha": 0.95}, {"alpha": 1.0}], ()),
    "tsv": ([{}], (0.5, 0.75, 1.0, 1.5, 2.0)),
}
EVOLVER = "evolver"
METHODS = (*GRID, EVOLVER)
# Of training prompts, for RegMean.
GRAMS = 128
# The search of Evolver: generations of as many offspring as there are fine-tunes.
GENERATIONS = 6


def tune(zoo: Zoo, work: Work) -> dict[str, Any]:
    """Choose by exact match on development prompts and write the chosen merge to ``zoo.merged(method)``.

    Returns and writes to the results, method by method: every setting's score, and the one chosen.
    """
    path = RESULTS / f"proof_{zoo.name}_statics.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for method, (variants, scalings) in GRID.items():
        if method not in found:
            rows = list(_tried(zoo, work, method, variants, scalings))
            found[method] = {"tried": rows, "chosen": max(rows, key=lambda row: row["dev"])["settings"]}
            write(path, found)
        _merge(zoo, work, method, found[method]["chosen"], zoo.merged(method))
    if EVOLVER not in found:
        found[EVOLVER] = _evolved(zoo, work)
        write(path, found)
    elif not zoo.merged(EVOLVER).is_dir():
        _evolved(zoo, work)
    return found


def _tried(
    zoo: Zoo, work: Work, method: str, variants: list[dict[str, Any]], scalings: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """Every setting with its score. Where the last step of a method is to scale what it adds to the base,
    one merge serves all scalings: W_0 + scaling (W_1 - W_0)."""
    base = resolve(zoo.recipe.base)
    for variant in variants:
        whole = variant | ({"scaling": 1.0} if scalings else {})
        folder = RUNS / zoo.name / "tried" / "-".join([method, *map(str, variant.values())])
        _merge(zoo, work, method, whole, folder)
        for scaling in scalings or (None,):
            settings = variant | ({} if scaling is None else {"scaling": scaling})
            name = f"{method} {settings}" if settings else method
            items = work.dev(zoo.recipe.tasks)
            shown = work.bars.stage(name, sum(map(len, items.values())))
            make = partial(_scaled, folder, base, 1.0 if scaling is None else scaling)
            book = Book(work.answers, f"{Checkpoint.open(folder).sha256()} x {scaling}")
            with plain_engine(make, base, work.settings) as engine:
                average = score(engine, items, lambda _: Target("static"), shown, book).average
            yield {"settings": settings, "dev": 100 * average}
        shutil.rmtree(folder)


def _scaled(folder: Path, base: Path, scaling: float) -> Any:
    model = load_model(folder, torch.float32)
    if scaling != 1.0:
        pretrained = load_model(base, torch.float32).state_dict()
        with torch.no_grad():
            for name, weight in model.state_dict().items():
                weight.copy_(torch.lerp(pretrained[name], weight, scaling))
    return model


def _merge(zoo: Zoo, work: Work, method: str, settings: dict[str, Any], folder: Path) -> None:
    if folder.is_dir():
        return
    given = settings | ({"grams": str(_grams(zoo, work).resolve())} if method == "regmean" else {})
    shared = SharedRecipe(method=method, **given)
    recipe = zoo.recipe.model_copy(update={"shared": shared})
    with workspace(folder, work_key(recipe)) as made, staged(folder) as fresh:
        merge_model(recipe, fresh, made, progress=work.bars.report)


def _grams(zoo: Zoo, work: Work) -> Path:
    """Gram matrices of every fine-tune on its own training prompts."""
    folder = RUNS / zoo.name / "grams"
    recipe = zoo.recipe
    base = Checkpoint.open(resolve(recipe.base))
    tokenizer = load_tokenizer(base.folder)
    for expert in recipe.experts:
        if not (folder / expert.task).is_dir():
            ids = read_ids(DATA / "train" / f"{expert.task}.jsonl", tokenizer)[:GRAMS]
            finetune = open_finetune(resolve(expert.checkpoint), base)
            stage = f"grams: {expert.task}"
            gather_grams(finetune, base, ids, folder / expert.task, stage=stage, progress=work.bars.report)
    return folder


def _evolved(zoo: Zoo, work: Work) -> dict[str, Any]:
    """Evolver over the average; chooses by the loss of the reference answers, in which more models differ."""
    recipe: Recipe = zoo.recipe.model_copy(update={"shared": SharedRecipe(method="average")})
    base = Checkpoint.open(resolve(recipe.base))
    exam = Exam(work.dev(recipe.tasks), base, work.settings)
    settings = EvolveSettings(merge=recipe.shared, generations=GENERATIONS, seed=0)
    folder = zoo.merged(EVOLVER)
    key = f"{work_key(recipe)} {settings.model_dump_json()} {exam.prompts}"
    with workspace(folder, key) as made, staged(folder) as fresh:
        evolved = evolve_model(
            recipe,
            settings,
            fresh,
            made,
            objective=Objective("loss", exam.loss, larger_is_better=False),
            examine=lambda _: {},
            notify=lambda *_: None,
            progress=work.bars.report,
        )
    return {
        "settings": settings.model_dump(),
        "evaluations": len(evolved.history),
        "dev loss": {one.name: one.dev for one in evolved.scored},
    }
