"""Searches over tiny fine-tunes, with a goal that mixing them can come nearer to."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from compress.evolve import EvolveSettings
from compress.evolvedmodel import evolve_model
from compress.fitness import Objective
from compress.recipe import SharedRecipe, read_recipe
from compress.staging import staged
from compress.workspace import workspace
from tests import tiny
from tests.bundles import silent, write_recipe


def make_models(folder):
    """A base, four full fine-tunes m0 … m3 of it, and an adapter, below ``folder``; returns it."""
    base = tiny.save_base(folder / "base", num_hidden_layers=1)
    for i in range(4):
        tiny.save_finetune(folder / f"m{i}", base, seed=i)
    tiny.save_adapter(folder / "adapter", base, 9, target_modules="all-linear")
    return folder


def recipe(models, path, names=("m0", "m1", "m2", "m3"), dtype="float32", **shared):
    return write_recipe(
        path,
        base=str(models / "base"),
        experts=[{"task": name, "checkpoint": str(models / name)} for name in names],
        shared=shared or {"method": "average"},
        output={"dtype": dtype},
    )


def weights(folder):
    return {name: t.float().numpy() for name, t in load_file(Path(folder) / "model.safetensors").items()}


def digest(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


class Distance:
    """How far a model is from an uneven mixture of the fine-tunes, a goal that mixing can come nearer to."""

    def __init__(self, models):
        parts = [weights(models / f"m{i}") for i in range(3)]
        self.goal = {n: 0.4 * parts[0][n] + 0.35 * parts[1][n] + 0.25 * parts[2][n] for n in parts[0]}
        self.calls = 0

    def __call__(self, folder):
        self.calls += 1
        return float(np.mean([np.abs(w - self.goal[n]).mean() for n, w in weights(folder).items()]))


def run(path, out, measure, examine=lambda _: {}, notify=silent, calibration=None, **given):
    settings = EvolveSettings(**({"generations": 3} | given))
    objective = Objective("distance", measure, larger_is_better=False)
    with workspace(out, "") as work, staged(out) as folder:
        return evolve_model(
            read_recipe(path),
            settings,
            folder,
            work,
            objective=objective,
            examine=examine,
            calibration=calibration,
            notify=notify,
            progress=silent,
        )


MERGED = SharedRecipe(method="average")
