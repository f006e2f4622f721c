"""Bundles whose adapters are compressed: what each matrix keeps, what they cost, and what they answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.bundle import Bundle
from compress.errors import InputError
from compress.grow import remove_expert
from tests import tiny
from tests.bundles import build_bundle, write_recipe
from tests.growing import add, hashes, weights

RANKS = {"a0": 4, "a1": 8, "a2": 6}
ALPHA = 8


class Ground:
    """A base, adapters of it and one full fine-tune, ``f0``; and bundles of some of them."""

    def __init__(self, folder, family="llama"):
        self.folder = folder
        changes = {} if family == "gpt2" else {"hidden_size": 64, "head_dim": 16}
        self.base = tiny.save_base(folder / "base", family, **changes)
        for i, (task, rank) in enumerate(RANKS.items()):
            tiny.save_adapter(
                folder / task, self.base, i, r=rank, lora_alpha=ALPHA, target_modules="all-linear"
            )
        tiny.save_finetune(folder / "f0", self.base, 9, rank=99)

    def build(self, out, tasks=("a0", "a1"), output="float32", shared=None, **exclusive) -> Bundle:
        recipe = write_recipe(
            out.with_suffix(".yaml"),
            base=str(self.folder / "base"),
            experts=[{"task": task, "checkpoint": str(self.folder / task)} for task in tasks],
            shared=shared or {"scaling": 0.3},
            exclusive={"adapters": "compressed", **exclusive},
            output={"dtype": output},
        )
        return build_bundle(recipe, out)

    def deltas(self, task) -> dict[str, np.ndarray]:
        """Task vectors of matrices from the files alone: parameter -> float64, in the parameter's layout."""
        before = load_file(self.folder / "base" / "model.safetensors")
        if task == "f0":
            after = load_file(self.folder / task / "model.safetensors")
            return {n: (after[n].double() - w.double()).numpy() for n, w in before.items() if w.dim() == 2}
        given, found = load_file(self.folder / task / "adapter_model.safetensors"), {}
        for key in (key for key in given if "lora_A" in key):
            name = key.removeprefix("base_model.model.").replace("lora_A.", "")
            b = given[key.replace("lora_A", "lora_B")].double()
            delta = (ALPHA / RANKS[task] * (b @ given[key].double())).numpy()
            # GPT-2 keeps its matrices transposed.
            found[name] = delta.T if self.base.config.model_type == "gpt2" else delta
        return found


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    made = {}

    def get(family="llama"):
        if family not in made:
            made[family] = Ground(tmp_path_factory.mktemp(family), family)
        return made[family]

    return get


def served(bundle, task) -> dict[str, np.ndarray]:
    """What an expert adds to base/, matrix by matrix, in the parameter's layout."""
    expert, table = bundle.expert(task, bundle.table()), bundle.table()
    pairs = {name: expert.low_rank(name) for name, p in table.items() if p.is_matrix}
    return {n: table[n].to_map(f.dense(torch.float64)).numpy() for n, f in pairs.items() if f is not None}


def total(bundle) -> int:
    return sum(facts.bytes for facts in bundle.manifest.experts.values())


def limit(bundle, times) -> int:
    """Bytes that ``size: <times>x`` leaves for the experts."""
    parameters = bundle.manifest.base.parameters
    return int(times * 2 * parameters) - 2 * parameters


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_rank_is_kept_with_the_least_error(ground, tmp_path, family):
    source = ground(family)
    bundle = source.build(tmp_path / "b", rank=3)
    for task in bundle.tasks:
        facts, lost, energy = bundle.manifest.experts[task], 0.0, 0.0
        assert facts.kind == "compressed adapter" and facts.max_rank == 3
        found, exact = served(bundle, task), source.deltas(task)
        assert found.keys() == exact.keys()
        for name, delta in exact.items():
            values = np.linalg.svd(delta, compute_uv=False)
            error = np.linalg.norm(found[name] - delta)
            assert error == pytest.approx(np.sqrt((values[3:] ** 2).sum()), rel=1e-4)
            lost, energy = lost + (values[3:] ** 2).sum(), energy + (values**2).sum()
        assert facts.kept == pytest.approx(1 - lost / energy, abs=1e-5)


def test_at_full_rank_nothing_is_lost_but_rounding(ground, tmp_path):
    bundle = ground().build(tmp_path / "b", rank=99)
    for task in bundle.tasks:
        assert bundle.manifest.experts[task].max_rank == RANKS[task]
        for name, delta in ground().deltas(task).items():
            error = np.linalg.norm(served(bundle, task)[name] - delta)
            assert error < 1e-5 * np.linalg.norm(delta)


def test_exact_is_the_default_and_what_it_was(ground, tmp_path):
    """No rank, dtype or size touches a byte of an adapter that is carried exactly."""
    source = ground()
    said = source.build(tmp_path / "said", adapters="exact", rank=1, dtype="int8")
    for task in said.tasks:
        name = "adapter_model.safetensors"
        given, carried = (load_file(p / task / name) for p in (source.folder, said.path / "experts"))
        assert given.keys() == carried.keys() and all(torch.equal(given[key], carried[key]) for key in given)
        assert said.manifest.experts[task].kind == "adapter" and said.manifest.experts[task].kept == 1.0
    content = said.manifest.recipe
    content["exclusive"].pop("adapters")
    unsaid = build_bundle(write_recipe(tmp_path / "unsaid.yaml", **content), tmp_path / "unsaid")
    assert unsaid.manifest.files == said.manifest.files


@pytest.mark.parametrize("dtype", ["float16", "int8", "mixed"])
@pytest.mark.parametrize("times", [1.05, 1.12])
def test_a_size_is_kept_and_used(ground, tmp_path, dtype, times):
    bundle = ground().build(tmp_path / "b", tuple(RANKS), dtype=dtype, size=f"{times}x", output="float16")
    assert 0.97 * limit(bundle, times) < total(bundle) <= limit(bundle, times)
    for task in bundle.tasks:
        exact, found = ground().deltas(task), served(bundle, task)
        lost = sum(((delta - found.get(name, 0.0)) ** 2).sum() for name, delta in exact.items())
        energy = sum((delta**2).sum() for delta in exact.values())
        assert bundle.manifest.experts[task].kept == pytest.approx(1 - lost / energy, abs=1e-4)


def test_more_bits_for_the_same_bytes_lose_less(ground, tmp_path):
    made = {
        dtype: ground().build(tmp_path / dtype, dtype=dtype, size="1.05x", output="float16")
        for dtype in ("float16", "int8", "mixed")
    }
    kept = {d: sum(f.kept for f in bundle.manifest.experts.values()) for d, bundle in made.items()}
    assert kept["float16"] < kept["int8"] < kept["mixed"]


def test_a_size_that_holds_everything_keeps_everything(ground, tmp_path):
    bundle = ground().build(tmp_path / "b", dtype="int8", size="3x", output="float16")
    assert all(bundle.manifest.experts[task].max_rank == RANKS[task] for task in bundle.tasks)
    assert all(facts.kept > 0.9995 for facts in bundle.manifest.experts.values())
    assert total(bundle) < 0.5 * limit(bundle, 3)


def test_adapters_and_full_finetunes_share_one_budget(ground, tmp_path):
    """Against the spectra themselves: no component left out would have saved more for its bytes."""
    bundle = ground().build(tmp_path / "b", ("f0", "a1"), dtype="float16", size="1.4x", output="float16")
    assert 0.97 * limit(bundle, 1.4) < total(bundle) <= limit(bundle, 1.4)
    table, worst, missed = bundle.table(), {}, {}
    for task in bundle.tasks:
        kept, deltas = served(bundle, task), ground().deltas(task)
        energy = sum((delta**2).sum() for delta in deltas.values())
        slopes = {n: np.linalg.svd(d, compute_uv=False) ** 2 / sum(d.shape) for n, d in deltas.items()}
        expert = bundle.expert(task, table)
        ranks = {n: expert.low_rank(n).rank if n in kept else 0 for n in deltas}
        worst[task] = min(slopes[n][r - 1] for n, r in ranks.items() if r) / energy
        missed[task] = max(slopes[n][r] for n, r in ranks.items() if r < len(slopes[n])) / energy
    assert bundle.manifest.experts["a1"].kept > bundle.manifest.experts["f0"].kept > 0.3
    # Deltas of full fine-tunes are against the base rounded to half precision.
    assert max(missed.values()) <= 1.02 * min(worst.values())


def test_the_shared_base_is_the_sum_of_what_is_kept(ground, tmp_path):
    bundle = ground().build(tmp_path / "b", rank=2, dtype="int8")
    before = load_file(ground().folder / "base" / "model.safetensors")
    kept = {task: served(bundle, task) for task in bundle.tasks}
    for mixture in ({}, {"a0": 1.0}, {"a0": 0.25, "a1": 0.5}):
        g = {task: mixture.get(task, 0.0) + 0.3 * (1 - sum(mixture.values())) for task in kept}
        for name, weight in weights(bundle, mixture).items():
            expected = before[name].double().numpy() + sum(g[t] * kept[t].get(name, 0.0) for t in kept)
            np.testing.assert_allclose(weight.double().numpy(), expected, atol=1e-5 * before[name].std())


def test_a_merge_that_is_no_sum_is_of_the_adapters_as_they_were(ground, tmp_path):
    ties = {"method": "ties", "density": 0.5}
    cut = ground().build(tmp_path / "cut", shared=ties, rank=1)
    exact = ground().build(tmp_path / "exact", shared=ties, rank=1, adapters="exact")
    named = [n for n in cut.manifest.files if n.startswith("shared/") and n.endswith(".safetensors")]
    assert named and all(cut.manifest.files[n] == exact.manifest.files[n] for n in named)
    for name, weight in weights(cut, {}).items():
        assert torch.equal(weight, weights(exact, {})[name])


def test_what_stands_beside_an_adapter_stays(ground, tmp_path):
    source = ground()
    tuned = tiny.save_adapter(
        tmp_path / "a", source.base, 5, r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]
    ).merge_and_unload()
    recipe = write_recipe(
        tmp_path / "r.yaml",
        base=str(source.folder / "base"),
        experts=[{"task": "a", "checkpoint": str(tmp_path / "a")}],
        exclusive={"adapters": "compressed", "rank": 1, "dtype": "int8"},
    )
    bundle = build_bundle(recipe, tmp_path / "b")
    ours, theirs = weights(bundle, {"a": 1.0}), dict(tuned.named_parameters())
    torch.testing.assert_close(ours["lm_head.weight"], theirs["lm_head.weight"].detach(), rtol=0, atol=1e-6)
    moved = {name for name in ours if not torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-4)}
    assert moved and all("q_proj" in name for name in moved)


def test_an_adapter_that_was_never_trained_costs_nothing(ground, tmp_path):
    tiny.save_adapter(tmp_path / "idle", ground().base, 1, r=4)
    path = tmp_path / "idle" / "adapter_model.safetensors"
    save_file({k: t * ("lora_A" in k) for k, t in load_file(path).items()}, path, metadata={"format": "pt"})
    recipe = write_recipe(
        tmp_path / "r.yaml",
        base=str(ground().folder / "base"),
        experts=[
            {"task": "idle", "checkpoint": str(tmp_path / "idle")},
            {"task": "a0", "checkpoint": str(ground().folder / "a0")},
        ],
        exclusive={"adapters": "compressed", "size": "1.1x", "dtype": "mixed"},
        output={"dtype": "float16"},
    )
    bundle = build_bundle(recipe, tmp_path / "b")
    assert served(bundle, "idle") == {} and bundle.manifest.experts["idle"].kept == 1.0
    assert bundle.manifest.experts["a0"].kept > 0.9


@pytest.mark.parametrize("settings", [{"rank": 2}, {"rank": 2, "dtype": "int8"}, {"energy": 0.9}])
def test_an_added_adapter_is_what_a_build_would_have_written(ground, tmp_path, settings):
    source = ground()
    path = source.build(tmp_path / "b", **settings).path
    after = add(path, "a2", source.folder / "a2")
    whole = source.build(tmp_path / "whole", tuple(RANKS), **settings)
    ours, theirs = hashes(path / "experts" / "a2"), hashes(whole.path / "experts" / "a2")
    assert ours == theirs and after.manifest.experts["a2"] == whole.manifest.experts["a2"]
    again = add(source.build(tmp_path / "c", **settings).path, "a2", source.folder / "a2", remerge=True)
    for name, weight in weights(again, {}).items():
        assert torch.equal(weight, weights(whole, {})[name])


def test_an_added_expert_gets_what_its_kind_has_on_average(ground, tmp_path):
    source = ground()
    bundle = source.build(tmp_path / "b", ("f0", "a0"), dtype="int8", size="1.5x", output="float16")
    after = add(bundle.path, "a1", source.folder / "a1").manifest.experts
    assert 0.9 * after["a0"].bytes < after["a1"].bytes <= after["a0"].bytes < after["f0"].bytes
    assert after["a1"].kind == "compressed adapter" and after["a1"].kept < 1
    assert remove_expert(bundle.path, Bundle.open(bundle.path).manifest, "a1").experts.keys() == {"f0", "a0"}


def test_exact_adapters_do_not_exceed_a_size_unsaid(ground, tmp_path):
    exact = {"adapters": "exact", "dtype": "int8", "output": "float16"}
    whole = ground().build(tmp_path / "whole", rank=1, **exact)
    # In float32 as they were saved.
    just = total(whole) + 2 * whole.manifest.base.parameters
    with pytest.raises(InputError, match=r"compress the adapters \(exclusive\.adapters\)"):
        ground().build(tmp_path / "b", size=f"{just - 1}B", **exact)
    fits = ground().build(tmp_path / "fits", size=f"{just}B", **exact)
    grown = add(fits.path, "a2", ground().folder / "a2")
    assert grown.manifest.experts["a2"].kept == 1.0


def test_what_is_refused(ground, tmp_path):
    with pytest.raises(InputError, match="'shared' would truncate the adapter of task 'a0'"):
        ground().build(tmp_path / "b", rank=2, reference="shared")
    with pytest.raises(InputError, match=r"exclusive\.adapters: .*'exact' or 'compressed'"):
        ground().build(tmp_path / "b", rank=2, adapters="small")
