"""Round trips out of a bundle: plain models and PEFT adapters, and bundles built of them again."""

from __future__ import annotations

import json
import math

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import compress.export.adapters
import compress.export.merged
from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.export import export_adapters, export_merged
from compress.export.factors import joined
from compress.lowrank import LowRank
from compress.staging import staged
from tests import tiny
from tests.bundles import adapter_zoo, build_bundle, full_zoo, silent, write_recipe
from tests.exporting import (
    MIXTURES,
    VECTORS,
    adapted,
    assert_alike,
    bundle_of,
    composed,
    export,
    full_bundle,
    logits,
)


@pytest.mark.parametrize("kind", ["adapters", "full"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_merged_folder_is_the_composed_model(tmp_path, family, kind):
    made = adapter_zoo(tmp_path, family) if kind == "adapters" else full_zoo(tmp_path, family)
    for number, mixture in enumerate(MIXTURES):
        out = tmp_path / f"out{number}"
        export_merged(made.bundle, mixture, out, progress=silent)
        model, expected = AutoModelForCausalLM.from_pretrained(out), composed(made.bundle, mixture)
        assert_alike(model, expected, 1e-5)
        for name, weight in model.named_parameters():
            torch.testing.assert_close(weight, expected.get_parameter(name), rtol=1e-6, atol=1e-6)
        assert AutoTokenizer.from_pretrained(out).chat_template
        card = (out / "README.md").read_text()
        assert made.bundle.fingerprint in card and made.bundle.manifest.experts["t1"].sha256 in card


def test_a_merged_folder_is_rounded_once(tmp_path):
    """From a float16 base: what is stored is the float32 sum, rounded."""
    adapter_zoo(tmp_path, "llama")
    half = bundle_of(tmp_path, "half", output={"dtype": "float16"})
    exact = composed(half, {"t0": 0.5})
    for dtype, stored in (
        (None, torch.float16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float32),
    ):
        out = tmp_path / str(dtype)
        export_merged(half, {"t0": 0.5}, out, dtype, shard_bytes=20_000, progress=silent)
        assert len(list(out.glob("*.safetensors"))) > 1
        assert json.loads((out / "config.json").read_text())["dtype"] == str(stored).removeprefix("torch.")
        for name, weight in AutoModelForCausalLM.from_pretrained(out, dtype=stored).named_parameters():
            assert torch.equal(weight, exact.get_parameter(name).to(stored))


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def zoo(request, tmp_path_factory):
    """Adapters of three ranks over each family."""
    return adapter_zoo(tmp_path_factory.mktemp(request.param), request.param)


def test_peft_gives_the_composed_mixture(zoo, tmp_path):
    made = export(zoo.bundle, MIXTURES, tmp_path / "out")
    assert [one.name for one in made] == ["static", "t1", "t0@0.5+t2@0.25"]
    # Static is reached through all of them: the sum of ranks 2, 4 and 6.
    assert [one.rank for one in made] == [12, 4, 12] and not any(one.left_out for one in made)
    for one in made:
        model = adapted(tmp_path / "out", one.name)
        assert_alike(model, composed(zoo.bundle, one.mixture), 1e-4)
        dense, merged = zoo.reference(one.mixture), model.merge_and_unload()
        for name, weight in merged.named_parameters():
            torch.testing.assert_close(weight.double(), dense.get_parameter(name), rtol=1e-5, atol=1e-5)


def test_a_mixture_is_pefts_cat_and_not_its_linear_combination(tmp_path):
    base = tiny.save_base(tmp_path / "base")
    for i in range(3):
        tiny.save_adapter(tmp_path / f"t{i}", base, i, target_modules="all-linear")
    bundle = bundle_of(tmp_path)
    # Weights that sum to one: then the factors' weights are the mixture's own.
    export(bundle, [{"t0": 0.7, "t1": 0.3}], tmp_path / "out")
    ours = adapted(tmp_path / "out", "t0@0.7+t1@0.3")
    theirs = PeftModel.from_pretrained(base, tmp_path / "t0", adapter_name="t0").eval()
    theirs.load_adapter(tmp_path / "t1", adapter_name="t1")
    for kind in ("cat", "linear"):
        theirs.add_weighted_adapter(["t0", "t1"], [0.7, 0.3], kind, combination_type=kind)
    theirs.set_adapter("cat")
    assert_alike(ours, theirs, 1e-5)
    theirs.set_adapter("linear")
    assert (logits(ours) - logits(theirs)).abs().max() > 0.01
    exact = composed(bundle, {"t0": 0.7, "t1": 0.3}, torch.float64)
    assert_alike(ours.double(), exact, 1e-6)


@pytest.mark.parametrize("reference", ["shared", "pretrained"])
@pytest.mark.parametrize(
    ("family", "skip"), [("llama", VECTORS), ("qwen2", VECTORS), ("gpt2", (*VECTORS, "wte"))]
)
def test_full_fine_tunes_become_adapters(tmp_path, family, skip, reference):
    bundle = full_bundle(tmp_path, family, skip, reference=reference)
    asked = MIXTURES if reference == "pretrained" else MIXTURES[1:]
    for one in export(bundle, asked, tmp_path / "out"):
        assert not one.left_out
        assert_alike(adapted(tmp_path / "out", one.name), composed(bundle, one.mixture), 1e-4)


def test_an_adapter_is_copied_byte_for_byte(tmp_path):
    """Also what adds nothing: a layer whose B is zero is no delta, and yet a part of the file."""
    base = tiny.save_base(tmp_path / "base")
    for i in range(3):
        tiny.save_adapter(tmp_path / f"t{i}", base, i, target_modules=["q_proj", "v_proj"])
        file = tmp_path / f"t{i}" / "adapter_model.safetensors"
        tensors = load_file(file)
        tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"].zero_()
        save_file(tensors, file, metadata={"format": "pt"})
    bundle = bundle_of(tmp_path)
    export(bundle, [{"t1": 1.0}], tmp_path / "out")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        copied, carried = (tmp_path / x / file for x in ("out/adapters/t1", "bundle/experts/t1"))
        assert copied.read_bytes() == carried.read_bytes()


def test_the_base_is_carried_as_it_is(zoo, tmp_path):
    export(zoo.bundle, [{"t0": 1.0}], tmp_path / "out")
    assert Checkpoint.open(tmp_path / "out" / "base").sha256() == Checkpoint.open(zoo.bundle.base).sha256()


def test_exported_adapters_build_the_same_experts(tmp_path):
    made = adapter_zoo(tmp_path, "llama")
    out = tmp_path / "out"
    export(made.bundle, [{f"t{i}": 1.0} for i in range(3)], out)
    recipe = write_recipe(
        tmp_path / "again.yaml",
        base=str(out / "base"),
        experts=[{"task": f"t{i}", "checkpoint": str(out / "adapters" / f"t{i}")} for i in range(3)],
        shared={"scaling": 0.3},
        exclusive={"rank": 1},
    )
    again = build_bundle(recipe, tmp_path / "again")
    assert again.fingerprint == made.bundle.fingerprint
    for i in range(3):
        file = f"experts/t{i}/adapter_model.safetensors"
        assert (again.path / file).read_bytes() == (made.bundle.path / file).read_bytes()


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_exported_fine_tunes_build_the_same_experts(tmp_path, family):
    made = full_zoo(tmp_path, family, rank=99, reference="pretrained")
    for i in range(3):
        export_merged(made.bundle, {f"t{i}": 1.0}, tmp_path / "out" / f"t{i}", progress=silent)
    recipe = write_recipe(
        tmp_path / "again.yaml",
        base=str(made.bundle.base),
        experts=[{"task": f"t{i}", "checkpoint": str(tmp_path / "out" / f"t{i}")} for i in range(3)],
        exclusive={"rank": 99, "reference": "pretrained"},
    )
    again = build_bundle(recipe, tmp_path / "again")
    table = again.table()
    for i in range(3):
        ours, theirs = again.expert(f"t{i}", table), made.bundle.expert(f"t{i}", table)
        for name, parameter in table.items():
            if parameter.is_matrix:
                a, b = ours.low_rank(name), theirs.low_rank(name)
                assert (a.dense() - b.dense()).norm() < 1e-5 * b.dense().norm()
            else:
                torch.testing.assert_close(ours.vector(name), theirs.vector(name), rtol=0, atol=1e-6)


def test_nothing_is_seen_of_an_interrupted_export(tmp_path, monkeypatch):
    made = adapter_zoo(tmp_path / "zoo", "llama")

    def stop(*_):
        raise KeyboardInterrupt

    for module, name in ((compress.export.merged, "model_card"), (compress.export.adapters, "folder_card")):
        monkeypatch.setattr(module, name, stop)
    for call in (
        lambda folder: export_merged(made.bundle, {}, folder, progress=silent),
        lambda folder: export_adapters(made.bundle, MIXTURES, folder, "peft", progress=silent),
    ):
        with pytest.raises(KeyboardInterrupt), staged(tmp_path / "made" / "out") as folder:
            call(folder)
        assert not list((tmp_path / "made").iterdir())


@pytest.mark.parametrize(
    ("mixtures", "sentence"),
    [
        ([{"cooking": 1.0}], "unknown task 'cooking'"),
        ([{"t0": math.nan}], "must be a number"),
        ([{"t0": 0.5}, {"t0": 0.5}], "asked for twice"),
    ],
)
def test_mixtures_that_cannot_be_used(zoo, tmp_path, mixtures, sentence):
    with pytest.raises(InputError, match=sentence):
        export(zoo.bundle, mixtures, tmp_path / "out")


def test_factors_that_overflow_are_refused():
    large = LowRank(torch.ones(1, 2), torch.full((2, 1), 1e4))
    with pytest.raises(InputError, match=r"the factors of w do not fit into torch\.float16"):
        joined("w", [(99.0, large)], torch.float16)
