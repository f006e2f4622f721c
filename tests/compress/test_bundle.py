"""A bundle is whole or not there: tampering, interrupted writing, foreign folders."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import compress.experts
from compress.bundle import Bundle, edit, read_manifest, seal
from compress.compose import factor_weights, load_composed
from compress.errors import InputError
from tests import tiny
from tests.bundles import build_bundle, write_recipe


@pytest.fixture
def copy(zoo, tmp_path):
    z = zoo("full", "llama")
    shutil.copytree(z.bundle.path, tmp_path / "bundle")
    return tmp_path / "bundle"


def recipe_of(zoo):
    return zoo("full", "llama").bundle.path.parent / "recipe.yaml"


def visible(folder):
    return sorted(path.name for path in folder.iterdir())


def test_layout_is_the_documented_one(zoo):
    bundle = zoo("adapter", "llama").bundle
    files = set(bundle.manifest.files)
    assert {
        "base/config.json",
        "base/model.safetensors",
        "base/tokenizer.json",
        "base/chat_template.jinja",
    } <= files
    assert {
        "shared/shared.json",
        "experts/t0/adapter_config.json",
        "experts/t0/adapter_model.safetensors",
    } <= files
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in files)
    content = json.loads((bundle.path / "bundle.json").read_text())
    assert content["schema_version"] == 1
    assert content["recipe"]["shared"] == {"method": "task_arithmetic", "scaling": 0.3}
    assert {"torch", "transformers", "peft"} <= set(content["versions"])
    assert len(content["base"]["sha256"]) == 64


@pytest.mark.parametrize(
    "name", ["base/model.safetensors", "experts/t1/adapter_model.safetensors", "base/config.json"]
)
def test_a_changed_byte_is_named_with_both_hashes(copy, name):
    path = copy / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} has sha256 [0-9a-f]{{16}}…, the manifest says"):
        Bundle.open(copy)


def test_a_missing_file_is_named(copy):
    (copy / "experts" / "t2" / "adapter_config.json").unlink()
    with pytest.raises(InputError, match=r"experts/t2/adapter_config\.json is missing"):
        Bundle.open(copy)


def test_a_file_that_the_manifest_does_not_know_is_refused(copy):
    (copy / "base" / "modeling.py").write_text("print('hello')")
    with pytest.raises(InputError, match=r"base/modeling\.py is not in the manifest"):
        Bundle.open(copy)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 1}', '{"schema_version": 99}'])
def test_broken_or_foreign_manifests(copy, content):
    (copy / "bundle.json").write_text(content)
    with pytest.raises(InputError, match=r"bundle\.json"):
        Bundle.open(copy)


def test_not_a_bundle(tmp_path):
    with pytest.raises(InputError, match="not a bundle"):
        Bundle.open(tmp_path)


def test_an_existing_folder_that_is_no_bundle_is_not_overwritten(zoo, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(InputError, match="exists and is not a bundle"):
        build_bundle(recipe_of(zoo), tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "years of work"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("existing", [False, True])
def test_an_interrupted_build_leaves_nothing_and_loses_nothing(zoo, tmp_path, monkeypatch, error, existing):
    target = tmp_path / "out" / "bundle"
    if existing:
        shutil.copytree(zoo("adapter", "llama").bundle.path, target)
    calls = []

    def fail_at_the_second_expert(*_, **__):
        calls.append(1)
        if len(calls) == 2:
            raise error
        return original(*_, **__)

    original = compress.experts.save
    monkeypatch.setattr(compress.experts, "save", fail_at_the_second_expert)
    with pytest.raises(type(error)):
        build_bundle(recipe_of(zoo), target)
    left = [name for name in visible(target.parent) if ".work-" not in name]
    assert left == (["bundle"] if existing else [])
    if existing:
        assert Bundle.open(target).manifest == zoo("adapter", "llama").bundle.manifest
    monkeypatch.undo()
    build_bundle(recipe_of(zoo), target)
    assert visible(target.parent) == ["bundle"]


def test_a_killed_build_is_never_visible_and_swept_by_the_next(zoo, tmp_path):
    target = tmp_path / "bundle"
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from compress.staging import staged\n"
        "with staged(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').write_text('a half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not target.exists() and len(visible(tmp_path)) == 1
    build_bundle(recipe_of(zoo), target)
    assert visible(tmp_path) == ["bundle"]


def test_killed_between_the_two_renames_the_old_bundle_comes_back(copy):
    shelter = copy.with_name(".bundle.retired-abc")
    shelter.mkdir()
    os.rename(copy, shelter / "bundle")
    with pytest.raises(RuntimeError), compress.bundle.create(copy):
        raise RuntimeError("this build fails too")
    assert Bundle.open(copy).tasks == ["t0", "t1", "t2"]
    assert not shelter.exists()


def test_what_another_process_is_filling_is_not_swept(zoo, tmp_path):
    with compress.bundle.create(tmp_path / "bundle") as filling:
        (filling / "half").write_text("still at it")
        build_bundle(recipe_of(zoo), tmp_path / "bundle")
        assert (filling / "half").exists()
        (filling / "half").unlink()
        shutil.copytree(tmp_path / "bundle", filling, dirs_exist_ok=True)
    assert Bundle.open(tmp_path / "bundle").tasks == ["t0", "t1", "t2"]


def test_files_that_are_no_part_of_the_bundle_are_not_lost(zoo, copy):
    (copy / "notes.md").write_text("measured on Monday")
    with pytest.raises(InputError, match=r"notes\.md, which is not part of the bundle"):
        build_bundle(recipe_of(zoo), copy)
    assert (copy / "notes.md").exists()


def test_links_inside_a_bundle_are_refused(copy):
    (copy / "router").symlink_to(copy / "base")
    with pytest.raises(InputError, match="router is a link"):
        Bundle.open(copy)


def test_edit_swaps_in_a_new_version_and_leaves_the_old_files_alone(copy):
    before = read_manifest(copy)
    inode = (copy / "base" / "model.safetensors").stat().st_ino
    with edit(copy) as folder:
        (folder / "router").mkdir()
        (folder / "router" / "router.json").write_text("{}")
    after = Bundle.open(copy).manifest
    assert set(after.files) - set(before.files) == {"router/router.json"}
    assert (copy / "base" / "model.safetensors").stat().st_ino == inode, "weights are linked, not copied"


def test_a_failed_edit_changes_nothing(copy):
    with pytest.raises(RuntimeError), edit(copy) as folder:
        (folder / "new").write_text("x")
        raise RuntimeError
    assert "new" not in read_manifest(copy).files
    Bundle.open(copy)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """``made(tasks, base, ...)``: a bundle of some of four fine-tunes of one base, or of another base."""
    folder = tmp_path_factory.mktemp("ingredients")
    base = tiny.save_base(folder / "base")
    for i in range(2):
        tiny.save_finetune(folder / f"t{i}", base, seed=i)
    tiny.save_adapter(folder / "t2", base, 2)
    tiny.save_finetune(folder / "moved", base, seed=7)
    tiny.save_base(folder / "other", "llama", seed=1)
    counter = itertools.count()

    def get(tasks="t0 t1 t2", base="base", scaling=0.3, output="float32", **checkpoints):
        number = next(counter)
        recipe = write_recipe(
            folder / f"{number}.yaml",
            base=str(folder / base),
            experts=[{"task": t, "checkpoint": str(folder / checkpoints.get(t, t))} for t in tasks.split()],
            shared={"scaling": scaling},
            exclusive={"rank": 8, "reference": "pretrained"},
            output={"dtype": output},
        )
        return build_bundle(recipe, folder / f"bundle{number}")

    return get


def shared_weights(bundle):
    shared = factor_weights({}, bundle.tasks, bundle.scalings)
    return load_composed(bundle, shared).state_dict()


def test_equal_ingredients_have_one_fingerprint(made):
    first, again = made(), made()
    assert first.path != again.path and first.fingerprint == again.fingerprint
    assert re.fullmatch("[0-9a-f]{64}", first.fingerprint)
    assert made("t2 t0 t1").fingerprint == first.fingerprint, "the order of a sum does not matter"


def test_an_expert_of_weight_zero_does_not_change_the_fingerprint(made):
    without, beside = made("t0 t2"), made(scaling={"t0": 0.3, "t1": 0.0, "t2": 0.3})
    assert beside.tasks != without.tasks and beside.fingerprint == without.fingerprint
    ours, theirs = shared_weights(beside), shared_weights(without)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert made(scaling=0.3).fingerprint != without.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"scaling": 0.4},
        {"scaling": {"t0": 0.3, "t1": 0.3, "t2": 0.31}},
        {"base": "other"},
        {"t1": "moved"},
        {"tasks": "t0 t1"},
        {"output": "bfloat16"},
    ],
    ids=str,
)
def test_other_ingredients_have_another_fingerprint(made, change):
    ours, theirs = made(), made(**change)
    assert ours.fingerprint != theirs.fingerprint
    before, after = shared_weights(ours), shared_weights(theirs)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_router_and_another_place_leave_the_fingerprint(copy):
    before = Bundle.open(copy).fingerprint
    with edit(copy) as folder:
        (folder / "router").mkdir()
        (folder / "router" / "router.json").write_text("{}")
    moved = copy.rename(copy.with_name("moved"))
    assert Bundle.open(moved).fingerprint == before


def test_a_base_that_lacks_a_weight_is_refused_and_not_made_up(copy):
    file = copy / "base" / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("model.norm.weight")
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})
    seal(copy, read_manifest(copy))
    with pytest.raises(InputError, match=r"base: its weights lack model\.norm\.weight"):
        load_composed(Bundle.open(copy), [0.0] * 3)
