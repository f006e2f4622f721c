"""twinserve merge, methods and gram, and building with each method from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from compress.bundle import Bundle
from compress.merging import METHODS
from compress.recipe import read_recipe
from tests import tiny
from tests.bundles import write_recipe
from tests.commands import run

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "methods").glob("*.yaml"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    base = tiny.save_base(folder / "base")
    for i in range(2):
        tiny.save_adapter(folder / f"t{i}", base, i, target_modules="all-linear")
        lines = [{"prompt": f"word {i} number {n}", "answer": f"{n}"} for n in range(12)]
        (folder / "prompts").mkdir(exist_ok=True)
        (folder / "prompts" / f"t{i}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def recipe(models, path, **shared):
    return write_recipe(
        path,
        base=str(models / "base"),
        experts=[{"task": f"t{i}", "checkpoint": str(models / f"t{i}")} for i in range(2)],
        shared=shared,
        router={},
    )


SETTINGS = {
    "merge_to_learn": {"general": "t0", "omega": 0.4},
    "fisher": {"prompts": "prompts"},
    "regmean": {"prompts": "prompts", "limit": 6},
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_builds_merges_and_is_listed(models, tmp_path, name):
    """Prompts named relative to the recipe are found there."""
    path = recipe(models, models / f"{name}.yaml", method=name, **SETTINGS.get(name, {}))
    run(tmp_path, "compress", path, "-o", "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.manifest.shared.method == name
    assert set(bundle.manifest.shared.parameters) == set(METHODS[name].parameters.model_fields)
    done = run(tmp_path, "merge", path, "-o", "merged")
    assert METHODS[name].title in done.stdout
    card = (tmp_path / "merged" / "README.md").read_text()
    assert METHODS[name].paper in card and "not stated" in card
    assert METHODS[name].paper in run(tmp_path, "methods").stdout.replace("\n", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "merged"]


def test_grams_may_be_made_elsewhere(models, tmp_path):
    for task in ("t0", "t1"):
        done = run(
            tmp_path,
            *("gram", models / "base", models / task, "--prompts", models / "prompts" / f"{task}.jsonl"),
            *("-o", f"grams/{task}", "--limit", 6),
        )
        assert "Gram matrices of" in done.stdout and "in 6 prompts" in done.stdout
    here = recipe(models, tmp_path / "r.yaml", method="regmean", grams="grams")
    run(tmp_path, "merge", here, "-o", "shipped")
    there = recipe(models, models / "r.yaml", method="regmean", prompts="prompts", limit=6)
    run(tmp_path, "merge", there, "-o", "gathered")
    assert (tmp_path / "shipped" / "model.safetensors").read_bytes() == (
        tmp_path / "gathered" / "model.safetensors"
    ).read_bytes()


def test_what_is_wrong_is_one_sentence(models, tmp_path):
    path = recipe(models, tmp_path / "r.yaml", method="regmean", prompts="nowhere")
    assert "nowhere: no such folder" in run(tmp_path, "merge", path, "-o", "x", code=1).stderr
    path = recipe(models, tmp_path / "r.yaml", method="regmeen")
    assert "did you mean 'regmean'" in run(tmp_path, "merge", path, "-o", "x", code=1).stderr.replace(
        "\n", " "
    )
    path = recipe(models, tmp_path / "r.yaml")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("kept")
    assert "exists already" in run(tmp_path, "merge", path, "-o", "x", code=1).stderr.replace("\n", " ")
    words = ("gram", models / "base", models / "t0", "--prompts", models / "prompts" / "t0.jsonl", "-o", "x")
    assert "exists already" in run(tmp_path, *words, code=1).stderr.replace("\n", " ")
    assert (tmp_path / "x" / "mine").read_text() == "kept"
    inside = recipe(models, tmp_path / "r.yaml")
    assert "lies inside" in run(tmp_path, "merge", inside, "-o", models, code=1).stderr.replace("\n", " ")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "x", "answer": 3}\n')
    words = ("gram", models / "base", models / "t0", "--prompts", bad, "-o", "y")
    assert "bad.jsonl:1" in run(tmp_path, *words, code=1).stderr.replace("\n", "")
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_committed_recipes_are_recipes(path):
    assert path.stem in METHODS or path.stem == "evolver"
    read = read_recipe(path)
    if path.stem in METHODS:
        assert read.shared.method == path.stem and read.router is not None


def test_every_method_has_a_recipe():
    assert {path.stem for path in CONFIGS} >= set(METHODS)
    assert all(isinstance(yaml.safe_load(path.read_text()), dict) for path in CONFIGS)
