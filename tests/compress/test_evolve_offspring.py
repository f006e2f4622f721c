"""Evolver's offspring: the formulas, element by element, and whom they refer to."""

from __future__ import annotations

import hashlib
import random
from collections import Counter

import numpy as np
import pytest
import torch

import compress.merge
import compress.tensorfiles
from compress.checkpoints import Checkpoint
from compress.finetunes import open_finetune
from compress.mutation import STRATEGIES, Draw
from compress.population import Population
from tests.bundles import silent
from tests.evolving import MERGED, Distance, digest, make_models, recipe, run, weights


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("models"))


FORMULAS = {
    "blend": lambda f, x, r: (1 - f) * x + f * r[0],
    "rand/1": lambda f, x, r: r[0] + f * (r[1] - r[2]),
    "current-to-best/1": lambda f, x, r: x + f * (r[0] - x) + f * (r[1] - r[2]),
}


def population(models, folder, names=("m0", "m1", "m2", "m3")):
    base = Checkpoint.open(models / "base")
    made = Population(base, {n: open_finetune(models / n, base) for n in names}, folder)
    made.prepare([0] * len(names), silent)
    return made


@pytest.mark.parametrize("strategy", FORMULAS)
def test_an_offspring_is_the_formula_where_it_crossed_and_its_parent_elsewhere(models, tmp_path, strategy):
    factor, rate, seed, references = np.float32(0.3), 0.7, 5, [2, 0, 3][: STRATEGIES[strategy].fewest]
    people = population(models, tmp_path)
    made = weights(
        people.breed(1, 4, references, STRATEGIES[strategy], factor=0.3, rate=rate, seed=seed).folder
    )
    parents = [weights(models / f"m{i}") for i in range(4)]
    crossed = total = 0
    for name, own in parents[1].items():
        number = int.from_bytes(hashlib.sha256(f"{seed} 4 1 {name}".encode()).digest()[:16], "little")
        drawn = np.random.Generator(np.random.PCG64(number)).random(own.size, dtype=np.float32)
        mask = (drawn < rate).reshape(own.shape)
        mutant = FORMULAS[strategy](factor, own, [parents[r][name] for r in references])
        np.testing.assert_allclose(made[name], np.where(mask, mutant, own), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(made[name][~mask], own[~mask])
        crossed, total = crossed + mask.sum(), total + mask.size
    assert abs(crossed / total - rate) < 0.01


def test_stretches_and_threads_do_not_change_an_offspring(models, tmp_path, monkeypatch):
    made = []
    for stretch, workers in ((1 << 20, 4), (100, 1)):
        monkeypatch.setattr(compress.tensorfiles, "STRETCH", stretch)
        monkeypatch.setattr(compress.merge, "WORKERS", workers)
        people = population(models, tmp_path / str(stretch))
        made.append(digest(people.breed(0, 1, [1], STRATEGIES["blend"], factor=0.5, rate=0.5, seed=0).folder))
    assert made[0]["model.safetensors"] == made[1]["model.safetensors"]


def test_blending_refers_to_the_best_less_and_less_often():
    def share(left):
        draws = [Draw(random.Random(i), [0, 1, 2, 3, 4], 2, 2, left) for i in range(2000)]
        return Counter(STRATEGIES["blend"].references(draw)[0] for draw in draws)[2] / 2000

    assert abs(share(1) - 0.2) < 0.03
    assert abs(share(1000) - 0.6) < 0.03


def test_adapters_and_checkpoints_evolve_together(models, tmp_path):
    people = population(models, tmp_path / "people", ("m0", "adapter"))
    base = Checkpoint.open(models / "base")
    adapter = open_finetune(models / "adapter", base)
    made = weights(people.living[1].folder)
    for name, weight in made.items():
        factors = adapter.low_rank(name)
        expected = base.weight(name) if factors is None else base.weight(name) + factors.dense()
        torch.testing.assert_close(torch.from_numpy(weight), expected)
    path = recipe(models, tmp_path / "r.yaml", ("m0", "adapter"))
    evolved = run(path, tmp_path / "out", Distance(models), merge=MERGED)
    assert any(one.kept for one in evolved.history if one.generation)
