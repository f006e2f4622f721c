"""Plain merged checkpoints: values, resuming, determinism, memory, mergekit's recipes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import compress.merge
import compress.tensorfiles
from compress.errors import InputError
from compress.inputs import work_key
from compress.mergedmodel import merge_model
from compress.recipe import read_recipe
from compress.shards import ShardWriter
from compress.staging import staged
from compress.workspace import workspace
from tests import tiny
from tests.bundles import silent, write_recipe


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    base = tiny.save_base(folder / "base")
    for i in range(3):
        tiny.save_finetune(folder / f"m{i}", base, seed=i)
        tiny.tokenizer().save_pretrained(folder / f"m{i}")
    return folder


def recipe(models, path, method="task_arithmetic", dtype="float32", count=3, **settings):
    return write_recipe(
        path,
        base=str(models / "base"),
        experts=[{"task": f"m{i}", "checkpoint": str(models / f"m{i}")} for i in range(count)],
        shared={"method": method, **settings},
        output={"dtype": dtype},
    )


def run(path, out, shard_bytes=1 << 30):
    read = read_recipe(path)
    with workspace(out, work_key(read)) as work, staged(out) as folder:
        return merge_model(read, folder, work, shard_bytes=shard_bytes, progress=silent)


def weights(folder):
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


def digest(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_a_merge_is_a_model_of_the_base_kind(models, tmp_path):
    run(recipe(models, tmp_path / "r.yaml", scaling={"m0": 0.2, "m1": 0.5, "m2": -0.3}), tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    given = [weights(models / f"m{i}") for i in range(3)]
    for name, base in weights(models / "base").items():
        expected = base.double() + sum(
            s * (t[name].double() - base.double()) for s, t in zip((0.2, 0.5, -0.3), given, strict=True)
        )
        torch.testing.assert_close(merged.state_dict()[name].double(), expected, rtol=1e-6, atol=1e-6)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "task arithmetic" in card and "arxiv.org/abs/2212.04089" in card
    facts = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert set(facts["sha256"]) == {"base", "m0", "m1", "m2"} and facts["recipe"]["shared"]["scaling"]


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "ties_per_tensor", "dare", "tsv"])
def test_threads_stretches_and_repetition_do_not_change_a_byte(models, tmp_path, monkeypatch, method):
    path = recipe(models, tmp_path / "r.yaml", method, "bfloat16")
    run(path, tmp_path / "a")
    monkeypatch.setattr(compress.tensorfiles, "STRETCH", 100)
    monkeypatch.setattr(compress.merge, "WORKERS", 1)
    run(path, tmp_path / "b")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_shards_hold_the_same_tensors(models, tmp_path):
    path = recipe(models, tmp_path / "r.yaml", "ties")
    run(path, tmp_path / "one")
    run(path, tmp_path / "many", shard_bytes=20_000)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    assert one.keys() == many.keys() and all(torch.equal(one[n], many[n]) for n in one)


def test_after_a_kill_finished_tensors_are_not_merged_again(models, tmp_path, monkeypatch):
    path, out = recipe(models, tmp_path / "r.yaml", "ties_per_tensor"), tmp_path / "out"
    code = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        import compress.merge
        from compress.shards import ShardWriter
        from tests.compress.test_merged_model import run
        compress.merge.WORKERS = 1
        finish, count = ShardWriter.finish, []
        def killed(self, name):
            finish(self, name)
            count.append(name)
            if len(count) == 7:
                os.kill(os.getpid(), signal.SIGKILL)
        ShardWriter.finish = killed
        run(Path(sys.argv[1]), Path(sys.argv[2]))
    """)
    killed = subprocess.run(
        [sys.executable, "-c", code, str(path), str(out)],
        check=False,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert killed.returncode == -9 and not out.exists()
    made = []
    finish = ShardWriter.finish
    monkeypatch.setattr(ShardWriter, "finish", lambda self, name: (made.append(name), finish(self, name))[1])
    run(path, out)
    assert len(made) == len(weights(out)) - 7
    monkeypatch.undo()
    run(path, tmp_path / "whole")
    assert digest(out) == digest(tmp_path / "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "r.yaml", "whole"]


def test_another_recipe_begins_anew(models, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(ShardWriter, "close", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(recipe(models, tmp_path / "r.yaml", scaling=0.1), out)
    left = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        run(recipe(models, tmp_path / "r.yaml", scaling=0.2), out)
    assert {p.name for p in tmp_path.iterdir()} != left and len(list(tmp_path.iterdir())) == 2
    monkeypatch.undo()
    run(recipe(models, tmp_path / "r.yaml", scaling=0.2), out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "r.yaml"]


def test_two_at_once_are_refused(models, tmp_path):
    path, out = recipe(models, tmp_path / "r.yaml"), tmp_path / "out"
    with workspace(out, work_key(read_recipe(path))), pytest.raises(InputError, match="another process"):
        run(path, out)


def test_odd_inputs_are_named(models, tmp_path):
    path = write_recipe(
        tmp_path / "r.yaml",
        base=str(models / "base"),
        experts=[
            {"task": "a", "checkpoint": str(models / "m0")},
            {"task": "b", "checkpoint": str(models / "m0")},
            {"task": "c", "checkpoint": str(models / "base")},
        ],
    )
    notes = run(path, tmp_path / "out")
    assert any("a and b are one checkpoint" in note for note in notes)
    assert any(note.startswith("c: its weights are the base's") for note in notes)


def test_memory_grows_with_the_largest_tensor_and_not_with_the_checkpoints(tmp_path):
    """Three checkpoints of 26 MB, float32, whose largest matrix has 4 MB."""
    base = tiny.save_base(
        tmp_path / "base", num_hidden_layers=40, hidden_size=128, intermediate_size=256, head_dim=32
    )
    for i in range(3):
        tiny.save_finetune(tmp_path / f"m{i}", base, i)
    path = recipe(tmp_path, tmp_path / "r.yaml", "ties_per_tensor")
    code = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        from tests.compress.test_merged_model import run
        run(Path(sys.argv[2]), Path(sys.argv[1]) / "warm")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run(Path(sys.argv[3]), Path(sys.argv[1]) / "out")
        print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
    """)
    tiny_models = tmp_path / "tiny"
    small = tiny.save_base(tiny_models / "base")
    for i in range(3):
        tiny.save_finetune(tiny_models / f"m{i}", small, i)
    warm = recipe(tiny_models, tmp_path / "warm.yaml", "ties_per_tensor")
    grown = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(warm), str(path)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    size = sum(p.stat().st_size for p in (tmp_path / "base").glob("*.safetensors"))
    assert int(grown.stdout) < 0.6 * size


MERGEKIT = {
    "linear": ("linear", {"normalize": True}, {"weight": 0.5}, "average"),
    "task_arithmetic": ("task_arithmetic", {"lambda": 0.5}, {"weight": 0.5}, "task_arithmetic"),
    "normalised": ("task_arithmetic", {"normalize": True}, {"weight": 0.5}, "task_arithmetic"),
    "ties": ("ties", {"int8_mask": True}, {"weight": 0.5, "density": 0.3}, "ties_per_tensor"),
}


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="mergekit cannot be installed there yet")
@pytest.mark.parametrize("name", MERGEKIT)
def test_a_mergekit_recipe_gives_its_tensors(models, tmp_path, name):
    from mergekit.merge_methods import merge_state_dicts

    method, common, own, ours = MERGEKIT[name]
    content = {
        "merge_method": method,
        "models": [
            {"model": str(models / f"m{i}"), "parameters": {k: v + 0.1 * i for k, v in own.items()}}
            for i in range(3)
        ],
        "parameters": common,
        "dtype": "float32",
    }
    if method != "linear":
        content |= {"base_model": str(models / "base")}
        content["models"].insert(0, {"model": str(models / "base")})
    path = write_recipe(tmp_path / "mk.yaml", **content)
    assert read_recipe(path).shared.method == ours
    run(path, tmp_path / "out")
    given = {f"m{i}": weights(models / f"m{i}") for i in range(3)}
    if method != "linear":
        given["base"] = weights(models / "base")
    theirs = merge_state_dicts(
        given,
        method,
        base=None if method == "linear" else "base",
        parameters={
            **{k: {f"m{i}": v + 0.1 * i for i in range(3)} for k, v in own.items() if method != "linear"},
            **({"weight": [0.5, 0.6, 0.7]} if method == "linear" else {}),
            **common,
        },
    )
    for key, tensor in weights(tmp_path / "out").items():
        torch.testing.assert_close(tensor, theirs[key], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"merge_method": "slerp"}, "linear, task_arithmetic and ties"),
        ({"slices": []}, "unknown key 'slices'"),
        ({"base_model": None}, "task_arithmetic needs base_model"),
        ({"models": [{"model": "BASE"}]}, "none beside base_model"),
        ({"models": [{"model": "m0"}]}, "m0 has no weight"),
        ({"models": [{"model": "m0", "parameters": {"weight": [0, 1]}}]}, "weight"),
        ({"models": [{"model": "m0", "parameters": {"weight": [{"filter": "mlp", "value": 1}]}}]}, "weight"),
        ({"models": [{"model": "m0", "parameters": {"wieght": 1}}]}, "unknown key"),
        ({"tokenizer_source": "union"}, "tokenizer_source"),
        ({"merge_method": "linear", "parameters": {"normalize": False}}, "normalize: true"),
    ],
)
def test_what_only_mergekit_knows_is_refused(tmp_path, change, sentence):
    content = {
        "merge_method": "task_arithmetic",
        "base_model": "BASE",
        "models": [
            {"model": "m0", "parameters": {"weight": 0.5}},
            {"model": "m1", "parameters": {"weight": 0.7}},
        ],
    } | change
    path = tmp_path / "mk.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    with pytest.raises(InputError, match=sentence) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_models_of_one_name_are_told_apart(tmp_path):
    path = write_recipe(
        tmp_path / "mk.yaml",
        merge_method="linear",
        models=[{"model": f"{x}/model", "parameters": {"weight": 1.0}} for x in ("org", "team")],
    )
    assert read_recipe(path).tasks == ["model-1", "model-2"]
