"""A bundle that exists gains and loses experts: what the others answer does not move by a bit."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.bundle import Bundle, edit, read_manifest
from compress.errors import InputError
from compress.grow import add_expert
from tests import tiny
from tests.bundles import silent
from tests.growing import Ground, add, distance, equal, hashes, mixtures, remove, weights

EXACT = 1e-5
# (kind of fine-tune, reference, family)
WAYS = [
    ("a", "pretrained", "llama"),
    ("f", "pretrained", "llama"),
    ("f", "shared", "llama"),
    ("a", "pretrained", "gpt2"),
    ("f", "shared", "gpt2"),
    ("f", "pretrained", "gemma"),
]
every_way = pytest.mark.parametrize(("kind", "reference", "family"), WAYS)


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    made = {}

    def get(family="llama"):
        if family not in made:
            made[family] = Ground.make(tmp_path_factory.mktemp(family), family)
        return made[family]

    return get


@pytest.fixture(scope="module")
def bundles(ground):
    made = {}

    def get(kind, reference, family="llama"):
        if (kind, reference, family) not in made:
            tasks = [f"{kind}0", f"{kind}1"]
            made[kind, reference, family] = ground(family).build(f"{kind}-{reference}", tasks, reference)
        return made[kind, reference, family]

    return get


@pytest.fixture
def copy(bundles, tmp_path):
    """``copy(kind, reference, family)``: a bundle of two to be changed."""

    def get(*way):
        shutil.copytree(bundles(*way).path, tmp_path / "work" / "bundle")
        return tmp_path / "work" / "bundle"

    return get


@every_way
def test_a_new_expert_is_exact_and_moves_no_other(ground, copy, kind, reference, family):
    path, source = copy(kind, reference, family), ground(family)
    before = Bundle.open(path)
    old, new = before.tasks, f"{kind}2"
    unmoved = {str(mixture): weights(before, mixture) for mixture in mixtures(old)}
    after = add(path, new, source.folder / new)
    assert after.tasks == after.carried == [*old, new]
    for mixture in mixtures(old):
        assert equal(weights(after, mixture), unmoved[str(mixture)])
    scalings = dict.fromkeys(old, 0.3)
    for mixture in ({new: 1.0}, {new: 0.5, old[0]: 0.25}):
        assert distance(weights(after, mixture), source.expected(scalings, mixture)) < EXACT
    assert distance(weights(after, {new: 1.0}), source.expected(scalings, {})) > 0.05


@every_way
def test_a_new_expert_weighs_nothing_in_the_shared_base(ground, copy, kind, reference, family):
    path = copy(kind, reference, family)
    before = Bundle.open(path)
    after = add(path, f"{kind}2", ground(family).folder / f"{kind}2")
    assert after.manifest.shared.weights == {**before.manifest.shared.weights, f"{kind}2": 0.0}
    assert after.fingerprint == before.fingerprint
    moved = {name for name, sha in before.manifest.files.items() if after.manifest.files.get(name) != sha}
    assert not moved, "all that was there is as it was"
    new = set(after.manifest.files) - set(before.manifest.files)
    assert new and all(name.startswith(f"experts/{kind}2/") for name in new)


@pytest.mark.parametrize("kind", ["a", "f"])
def test_what_is_added_is_what_a_build_would_have_written(ground, copy, kind):
    path = copy(kind, "pretrained")
    tasks = [f"{kind}{i}" for i in range(3)]
    whole = ground().build(f"{kind}-zero", tasks, scaling={**dict.fromkeys(tasks[:2], 0.3), tasks[2]: 0.0})
    after = add(path, tasks[2], ground().folder / tasks[2])
    own = f"experts/{tasks[2]}/"
    ours, theirs = hashes(after.path), hashes(whole.path)
    assert [n for n in ours if n.startswith(own)] == [n for n in theirs if n.startswith(own)]
    assert all(ours[name] == theirs[name] for name in ours if name.startswith(own))
    assert after.manifest.experts[tasks[2]] == whole.manifest.experts[tasks[2]]
    assert after.fingerprint == whole.fingerprint


def test_an_adapter_joins_full_finetunes_of_the_pretrained_base(ground, copy):
    after = add(copy("f", "pretrained"), "a0", ground().folder / "a0")
    assert after.manifest.experts["a0"].kind == "adapter"
    expected = ground().expected({"f0": 0.3, "f1": 0.3}, {"a0": 1.0})
    assert distance(weights(after, {"a0": 1.0}), expected) < EXACT


@pytest.mark.parametrize("task", ["f2", "a2"])
def test_a_base_stored_in_bfloat16_takes_experts_of_the_unrounded_one(ground, tmp_path, task):
    bundle = ground().build(f"rounded-{task}", ["f0", "a0"], dtype="bfloat16")
    shutil.copytree(bundle.path, tmp_path / "bundle")
    shutil.copytree(ground().folder / task, tmp_path / task)
    if task == "a2":
        card = f"---\nbase_weights_sha256: {bundle.manifest.base.sha256}\n---\n"
        (tmp_path / task / "README.md").write_text(card)
    after = add(tmp_path / "bundle", task, tmp_path / task)
    found, exact = weights(after, {task: 1.0}), ground().expected({}, {task: 1.0})
    rounding = distance(weights(after, {}), ground().expected({"f0": 0.3, "a0": 0.3}, {}))
    assert 1e-4 < rounding < 0.05
    # A full fine-tune is subtracted from the rounded base; an adapter is carried as it is.
    assert distance(found, exact) < (EXACT if task == "f2" else 0.05)


@pytest.mark.parametrize("kind", ["a", "f"])
def test_merged_anew_it_is_the_bundle_built_at_once(ground, copy, kind):
    path = copy(kind, "pretrained")
    fingerprint = Bundle.open(path).fingerprint
    tasks = [f"{kind}{i}" for i in range(3)]
    after = add(path, tasks[2], ground().folder / tasks[2], remerge=True)
    assert after.scalings == dict.fromkeys(tasks, 0.3)
    assert json.loads((path / "shared" / "shared.json").read_text())["scalings"] == after.scalings
    whole = ground().build(f"{kind}-whole", tasks)
    assert after.fingerprint == whole.fingerprint != fingerprint
    for mixture in mixtures(tasks):
        assert equal(weights(after, mixture), weights(whole, mixture))
    assert distance(weights(after, {}), ground().expected(after.scalings, {})) < EXACT


def test_merging_anew_leaves_out_who_was_removed(ground, copy):
    path = copy("a", "pretrained")
    remove(path, "a0")
    after = add(path, "a2", ground().folder / "a2", remerge=True)
    assert after.scalings == {"a0": 0.0, "a1": 0.3, "a2": 0.3}
    assert distance(weights(after, {}), ground().expected({"a1": 0.3, "a2": 0.3}, {})) < EXACT


@pytest.mark.parametrize("kind", ["a", "f"])
def test_an_expert_that_made_the_shared_base_is_retired(ground, copy, kind):
    path = copy(kind, "pretrained")
    before = Bundle.open(path)
    after = remove(path, f"{kind}0")
    manifest = after.manifest
    assert (after.tasks, after.carried) == ([f"{kind}1"], [f"{kind}0", f"{kind}1"])
    assert manifest.retired == [f"{kind}0"]
    assert after.fingerprint == before.fingerprint and manifest.files == before.manifest.files
    for mixture in ({}, {f"{kind}1": 1.0}, {f"{kind}1": 0.5}):
        assert equal(weights(after, mixture), weights(before, mixture))
    grown = add(path, f"{kind}2", ground().folder / f"{kind}2")
    assert grown.tasks == [f"{kind}1", f"{kind}2"] and grown.manifest.retired == [f"{kind}0"]
    scalings = {f"{kind}0": 0.3, f"{kind}1": 0.3}
    expected = ground().expected(scalings, {f"{kind}2": 0.5})
    assert distance(weights(grown, {f"{kind}2": 0.5}), expected) < EXACT


def test_an_expert_of_the_shared_base_is_deleted(copy):
    path = copy("f", "shared")
    before = Bundle.open(path)
    after = remove(path, "f0")
    assert after.tasks == after.carried == ["f1"] and after.manifest.retired == []
    assert not (path / "experts" / "f0").exists() and after.manifest.shared.weights == {"f1": 0.3}
    assert after.fingerprint == before.fingerprint
    for mixture in ({}, {"f1": 1.0}, {"f1": 0.5}):
        assert equal(weights(after, mixture), weights(before, mixture))


@every_way
def test_an_expert_that_came_and_goes_leaves_nothing(ground, copy, kind, reference, family):
    path, new = copy(kind, reference, family), f"{kind}2"
    before = Bundle.open(path)
    add(path, new, ground(family).folder / new)
    after = remove(path, new)
    assert not (path / "experts" / new).exists()
    assert after.tasks == before.tasks and after.manifest.retired == []
    assert after.manifest.files == before.manifest.files and after.fingerprint == before.fingerprint
    assert after.manifest.shared == before.manifest.shared
    assert after.manifest.experts == before.manifest.experts


def test_the_report_tells_each_matrix(ground, copy):
    path = copy("f", "pretrained")
    with edit(path) as folder:
        manifest, rows = add_expert(folder, read_manifest(folder), "f2", str(ground().folder / "f2"), silent)
    facts = manifest.experts["f2"]
    assert rows["kind"] == facts.kind == "full" and rows["max_rank"] == facts.max_rank == 4
    assert facts.source == str(ground().folder / "f2") and facts.kept == pytest.approx(1)
    matrices = {p.name for p in Bundle.open(path).table().values() if p.is_matrix}
    assert {row["name"] for row in rows["matrices"]} == matrices


def damaged(folder, source):
    """A checkpoint with a value that is no number."""
    shutil.copytree(source, folder)
    path = next(folder.glob("*model.safetensors"))
    tensors = load_file(path)
    tensors[sorted(tensors)[-1]].view(-1)[0] = torch.nan
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def carded(folder, source):
    """An adapter of other base weights, by its model card."""
    shutil.copytree(source, folder)
    (folder / "README.md").write_text(f"---\nbase_weights_sha256: {'ab' * 32}\n---\n")
    return folder


def foreign(folder, source):
    tiny.save_base(folder, hidden_size=64)
    return folder


def as_it_is(folder, source):
    return source


# way of the bundle, task, source, what is done to it, sentence
FAILURES = {
    "missing": ("f-pretrained", "f2", "none", as_it_is, "no such model folder"),
    "an adapter among full ones": ("f-shared", "a2", "a2", as_it_is, "give the full checkpoint"),
    "taken": ("f-pretrained", "f1", "f2", as_it_is, "'f1' is already an expert.*remove it first"),
    "retired": ("f-pretrained", "f0", "f2", as_it_is, "'f0' is already an expert.*kept for its factors"),
    "reserved": ("f-pretrained", "static", "f2", as_it_is, "'static' cannot be used"),
    "upwards": ("f-pretrained", "../f2", "f2", as_it_is, r"'\.\./f2' cannot be used"),
    "no name": ("f-pretrained", "", "f2", as_it_is, "task name '' cannot be used"),
    "NaN": ("f-pretrained", "f2", "f2", damaged, "holds NaN or infinite"),
    "NaN in an adapter": ("a-pretrained", "a2", "a2", damaged, "holds NaN or infinite"),
    "NaN beside the shared base": ("f-shared", "f2", "f2", damaged, "holds NaN or infinite"),
    "another base by its card": ("a-pretrained", "a2", "a2", carded, "was trained on base weights abab"),
    "another size": ("f-pretrained", "f2", "f2", foreign, "has shape"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failing_add_leaves_every_byte(ground, copy, tmp_path, name):
    way, task, source, change, sentence = FAILURES[name]
    path = copy(*way.split("-"))
    if name == "retired":
        remove(path, "f0")
    checkpoint = change(tmp_path / "changed", ground().folder / source)
    before = hashes(path.parent)
    with pytest.raises(InputError, match=sentence) as refused:
        add(path, task, checkpoint)
    assert "\n" not in str(refused.value)
    assert hashes(path.parent) == before
    Bundle.open(path)


@pytest.mark.parametrize(
    ("reference", "scaling", "sentence"),
    [("shared", 0.3, "only from the checkpoints"), ("pretrained", {"f0": 0.3, "f1": 0.1}, "for every task")],
)
def test_what_cannot_be_merged_anew_is_refused(ground, tmp_path, reference, scaling, sentence):
    name = f"not-{reference}"
    path = ground().build(name, ["f0", "f1"], reference, scaling).path
    before = hashes(path)
    with pytest.raises(InputError, match=sentence):
        add(path, "f2", ground().folder / "f2", remerge=True)
    assert hashes(path) == before
    assert add(path, "f2", ground().folder / "f2").tasks == ["f0", "f1", "f2"]


def test_who_is_not_there_or_alone_cannot_go(copy):
    path = copy("f", "pretrained")
    remove(path, "f0")
    before = hashes(path.parent)
    for task, sentence in (
        ("f0", "'f0' is no expert of this bundle; it has f1"),
        ("cooking", "'cooking' is no expert of this bundle; it has f1"),
        ("f1", "'f1' is the bundle's only expert"),
    ):
        with pytest.raises(InputError, match=sentence):
            remove(path, task)
        assert hashes(path.parent) == before
