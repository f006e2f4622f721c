"""Experts under a size, quantised or not: what they cost and keep, and that they are served as stored."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from compress.bundle import Bundle, edit, read_manifest, seal
from compress.compose import factor_weights, load_composed
from compress.errors import InputError
from compress.grow import add_expert
from tests import tiny
from tests.bundles import build_bundle, silent, write_recipe


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Fine-tunes whose deltas have a full, slowly falling spectrum."""
    made = {}

    def get(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            base = tiny.save_base(
                folder / "base", family, **({} if family == "gpt2" else {"hidden_size": 64, "head_dim": 16})
            )
            for i in range(3):
                tiny.save_finetune(folder / f"t{i}", base, i, rank=99)
            made[family] = folder
        return made[family]

    return get


def made(folder, out, tasks=("t0", "t1"), dtype="float16", output="float16", **exclusive) -> Bundle:
    path = write_recipe(
        out.with_suffix(".yaml"),
        base=str(folder / "base"),
        experts=[{"task": t, "checkpoint": str(folder / t)} for t in tasks],
        exclusive={"dtype": dtype, "reference": "pretrained", **exclusive},
        output={"dtype": output},
    )
    return build_bundle(path, out)


def error(folder, bundle, task) -> float:
    """Relative squared error of a served fine-tune's matrices, from the checkpoints."""
    from safetensors.torch import load_file

    weights = factor_weights({task: 1.0}, bundle.carried, bundle.scalings)
    served = dict(load_composed(bundle, weights).named_parameters())
    tuned, base = (
        load_file(folder / task / "model.safetensors"),
        load_file(folder / "base" / "model.safetensors"),
    )
    lost = total = 0.0
    for name, parameter in bundle.table().items():
        if parameter.is_matrix:
            delta = tuned[name].double() - base[name].double()
            rounding = base[name].double() - base[name].half().double()
            lost += float(
                (served[name].detach().double() + rounding - base[name].double() - delta).square().sum()
            )
            total += float(delta.square().sum())
    return lost / total


@pytest.mark.parametrize("dtype", ["float16", "int8", "mixed"])
@pytest.mark.parametrize("size", ["1.1x", "1.4x", "3x"])
def test_a_size_is_kept_and_used(models, tmp_path, dtype, size):
    folder = models("llama")
    bundle = made(folder, tmp_path / "b", dtype=dtype, size=size)
    sizes = bundle.bytes()
    limit = float(size[:-1]) * 2 * bundle.manifest.base.parameters
    facts = bundle.manifest.experts.values()
    used = sum(p.stat().st_size for p in (bundle.path / "base").glob("*.safetensors")) + sum(
        f.bytes for f in facts
    )
    assert used <= limit + 10_000  # headers of the files
    if dtype == "float16" and size != "3x":
        assert used > 0.9 * limit
    assert set(sizes) == {"base", "experts", "router"} | ({"shared"} & set(sizes))
    for task in bundle.tasks:
        kept = bundle.manifest.experts[task].kept
        assert error(folder, bundle, task) == pytest.approx(1 - kept, abs=2e-3)


def test_more_bits_for_the_same_bytes_lose_less(models, tmp_path):
    folder = models("llama")
    lost = {
        dtype: error(folder, made(folder, tmp_path / dtype, dtype=dtype, size="1.25x"), "t0")
        for dtype in ("float16", "int8", "mixed")
    }
    assert lost["mixed"] < lost["int8"] < lost["float16"]


def test_a_shared_budget_beats_one_rank_for_all(models, tmp_path):
    folder = models("llama")
    flat = made(folder, tmp_path / "flat", rank=4)
    spent = sum(f.bytes for f in flat.manifest.experts.values()) + 2 * flat.manifest.base.parameters
    shared = made(folder, tmp_path / "shared", size=f"{spent}B")
    assert sum(f.bytes for f in shared.manifest.experts.values()) <= sum(
        f.bytes for f in flat.manifest.experts.values()
    )
    assert sum(error(folder, shared, t) for t in ("t0", "t1")) < sum(
        error(folder, flat, t) for t in ("t0", "t1")
    )


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_int8_at_a_rank(models, tmp_path, family):
    folder = models(family)
    bundle = made(folder, tmp_path / "b", dtype="int8", rank=999)
    assert all(facts.kept > 0.999 for facts in bundle.manifest.experts.values())
    assert error(folder, bundle, "t1") < 1e-3
    half = made(folder, tmp_path / "h", dtype="float16", rank=999)
    assert bundle.manifest.experts["t0"].bytes < 0.65 * half.manifest.experts["t0"].bytes


def test_quantised_experts_can_be_built_from_and_added(models, tmp_path):
    folder = models("llama")
    bundle = made(folder, tmp_path / "b", dtype="mixed", size="1.5x")
    assert not list(bundle.path.glob("experts/*/adapter_model.safetensors"))
    recipe = write_recipe(
        tmp_path / "again.yaml",
        base=str(folder / "base"),
        experts=[{"task": "again", "checkpoint": str(bundle.path / "experts" / "t0")}],
    )
    # A card says which base an expert is over: here the rounded one.
    with pytest.raises(InputError, match="trained on base weights"):
        build_bundle(recipe, tmp_path / "again")
    with edit(bundle.path) as private:
        grown, rows = add_expert(private, read_manifest(private), "t2", str(folder / "t2"), silent)
        seal(private, grown)
    opened = Bundle.open(bundle.path)
    mean = sum(opened.manifest.experts[t].bytes for t in ("t0", "t1")) / 2
    assert opened.manifest.experts["t2"].bytes <= 1.01 * mean and rows["kept"] > 0.5
    assert error(folder, opened, "t2") == pytest.approx(1 - rows["kept"], abs=2e-3)


def test_report_says_the_bits(models, tmp_path):
    folder = models("llama")
    bundle = made(folder, tmp_path / "b", dtype="mixed", size="1.3x")
    from compress.decompose import CHOICES

    kinds = set()
    for task in bundle.tasks:
        expert = bundle.expert(task, bundle.table())
        assert expert.adapter.codes is not None
        kinds |= {int(key.split(".")[-2]) for key in expert.adapter.codes.files if key.endswith("codes")}
    assert kinds <= set(CHOICES["mixed"]) and len(kinds) > 1


@pytest.mark.parametrize(
    ("exclusive", "output", "sentence"),
    [
        ({"size": "1.2x"}, "float32", "base, adapters, norms and biases alone need all of it"),
        ({"size": "0.5x"}, "float16", "base, adapters, norms and biases alone need all of it"),
        ({"size": "1.2"}, "float16", "exclusive.size"),
        ({"size": "1.2x", "rank": 3}, "float16", "either rank or energy or size"),
        ({"rank": 3, "dtype": "mixed"}, "float16", "mixed shares out a size"),
        ({"size": "1.2x", "dtype": "float32"}, "float16", "two bytes or fewer"),
    ],
)
def test_sizes_that_cannot_be(models, tmp_path, exclusive, output, sentence):
    with pytest.raises(InputError, match=sentence):
        made(models("llama"), tmp_path / "b", **({"output": output} | exclusive))
    assert not (tmp_path / "b").exists()


def test_an_interrupted_build_takes_no_matrix_apart_twice(models, tmp_path, monkeypatch):
    import compress.deltas

    original, calls = compress.deltas.truncate, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(compress.deltas, "truncate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(models("llama"), tmp_path / "b", size="1.3x")
    bundle = made(models("llama"), tmp_path / "b", size="1.3x")
    matrices = sum(p.is_matrix for p in bundle.table().values())
    assert len(calls) == 1 + 2 * matrices
    whole = made(models("llama"), tmp_path / "whole", size="1.3x")
    assert whole.manifest.files == bundle.manifest.files


@pytest.mark.parametrize("damage", ["scales", "width"])
def test_damaged_codes(models, tmp_path, damage):
    from safetensors.torch import load_file, save_file

    from compress.experts import Expert

    folder = models("llama")
    bundle = made(folder, tmp_path / "b", dtype="int8", rank=4)
    path = bundle.path / "experts" / "t0" / "quantised.safetensors"
    codes = load_file(path)
    key = next(k for k in codes if k.endswith("A.8.codes"))
    if damage == "scales":
        codes.pop(key.replace("codes", "scales"))
    else:
        codes[key] = codes[key][:, :-1].contiguous()
    path.unlink()
    save_file(codes, path)
    expert = Expert(path.parent, bundle.table())
    with pytest.raises(InputError, match=r"missing|needs"):
        expert.low_rank(key.removesuffix(".A.8.codes"))


def test_the_same_recipe_gives_the_same_bytes(models, tmp_path):
    folder = models("llama")
    digests = []
    for name in ("x", "y"):
        bundle = made(folder, tmp_path / name, dtype="mixed", size="1.3x")
        digests.append(json.dumps(bundle.manifest.files, sort_keys=True))
    assert digests[0] == digests[1] and np.isfinite(bundle.manifest.experts["t0"].kept)
    assert torch.isfinite(torch.tensor(bundle.manifest.experts["t0"].kept))
