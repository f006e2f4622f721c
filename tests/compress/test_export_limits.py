"""What an exported adapter cannot hold: refused or left out; and the narrower form that vLLM reads."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from compress.errors import InputError
from compress.export import export_merged, mixture_name, serve_command
from compress.export.vllm import largest_rank
from compress.lowrank import LowRank
from tests import tiny
from tests.bundles import adapter_zoo, full_zoo, silent
from tests.exporting import (
    MIXTURES,
    VECTORS,
    adapted,
    as_vllm_reads,
    assert_alike,
    bundle_of,
    composed,
    export,
    full_bundle,
    settings_of,
)


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def zoo(request, tmp_path_factory):
    """Adapters of three ranks over each family."""
    return adapter_zoo(tmp_path_factory.mktemp(request.param), request.param)


def test_vllm_gets_one_rank_and_scale_one(zoo, tmp_path):
    if zoo.base.config.model_type == "gpt2":
        with pytest.raises(InputError, match="vLLM serves gpt2 without adapters; export it --as peft"):
            export(zoo.bundle, MIXTURES, tmp_path / "out", "vllm")
        return
    made = export(zoo.bundle, MIXTURES, tmp_path / "out", "vllm")
    for one in made:
        settings = settings_of(tmp_path / "out", one.name)
        assert settings["r"] == settings["lora_alpha"] == one.rank
        assert not settings["rank_pattern"] and not settings["alpha_pattern"] and not settings["use_rslora"]
        assert settings["bias"] == "none" and settings["modules_to_save"] is None
        assert_alike(adapted(tmp_path / "out", one.name), composed(zoo.bundle, one.mixture), 1e-4)
        assert_alike(as_vllm_reads(tmp_path / "out", one.name), composed(zoo.bundle, one.mixture), 1e-4)
    command = serve_command({one.name: one.rank for one in made}, "base")
    assert command in (tmp_path / "out" / "README.md").read_text()
    assert "--max-lora-rank 16 " in command and "t1=./adapters/t1" in command


@pytest.mark.parametrize(
    "settings",
    [
        {
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"q_proj": 6},
            "alpha_pattern": {"down_proj": 5},
        },
        {"target_modules": ["q_proj", "up_proj"], "use_rslora": True, "r": 8},
        {"target_modules": ["embed_tokens", "o_proj", "lm_head"]},
    ],
)
def test_published_adapters_keep_their_bytes_and_their_meaning(tmp_path, settings):
    base = tiny.save_base(tmp_path / "base")
    own = [tiny.save_adapter(tmp_path / f"t{i}", base, i, **settings) for i in range(3)]
    bundle = bundle_of(tmp_path)
    export(bundle, MIXTURES, tmp_path / "out")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        copied, carried = (tmp_path / x / file for x in ("out/adapters/t1", "bundle/experts/t1"))
        assert copied.read_bytes() == carried.read_bytes()
    assert_alike(adapted(tmp_path / "out", "t1"), own[1], 1e-5)
    assert_alike(adapted(tmp_path / "out", "t0@0.5+t2@0.25"), composed(bundle, MIXTURES[2]), 1e-4)
    beyond = "embed_tokens" in settings["target_modules"]
    if beyond:
        with pytest.raises(
            InputError, match=r"t1: 2 of 4 changed parameters \(such as model.embed_tokens.weight"
        ):
            export(bundle, [{"t1": 1.0}], tmp_path / "refused", "vllm")
    (one,) = export(bundle, [{"t1": 1.0}], tmp_path / "vllm", "vllm", lossy=beyond)
    assert one.left_out == (("model.embed_tokens.weight", "lm_head.weight") if beyond else ())
    as_vllm_reads(tmp_path / "vllm", "t1")
    if not beyond:
        assert_alike(as_vllm_reads(tmp_path / "vllm", "t1"), own[1], 1e-4)


@pytest.mark.parametrize("form", ["peft", "vllm"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma"])
def test_what_lora_cannot_hold_is_refused_or_left_out(tmp_path, family, form):
    made = full_zoo(tmp_path, family)
    with pytest.raises(
        InputError, match=r"t1: (\d+) of (\d+) changed parameters .* % of the energy"
    ) as caught:
        export(made.bundle, [{"t1": 1.0}], tmp_path / "refused", form)
    assert "\n" not in str(caught.value) and "--lossy" in str(caught.value)
    (one,) = export(made.bundle, [{"t1": 1.0}], tmp_path / "out", form, lossy=True)
    table = made.bundle.table()
    with_it = dict(composed(made.bundle, {"t1": 1.0}).named_parameters())
    without = AutoModelForCausalLM.from_pretrained(made.bundle.base)
    deltas = {n: (with_it[n] - p).detach() for n, p in without.named_parameters()}
    lacking = {n for n, p in table.items() if not p.is_matrix or p.tied_head}
    if form == "vllm":
        lacking |= {n for n in table if "embed" in n or "lm_head" in n}
    assert set(one.left_out) == lacking
    energies = {n: float(delta.double().square().sum()) for n, delta in deltas.items()}
    assert one.share == pytest.approx(sum(energies[n] for n in lacking) / sum(energies.values()), rel=1e-3)
    for folder in ("adapters/t1", "."):
        assert (
            f"{100 * one.share:.3g} % of the energy" in (tmp_path / "out" / folder / "README.md").read_text()
        )
    expected = composed(made.bundle, {"t1": 1.0})
    with torch.no_grad():
        for name in lacking:
            expected.get_parameter(name).sub_(deltas[name])
    assert_alike(adapted(tmp_path / "out", "t1"), expected, 1e-4)


def test_a_shared_base_that_no_sum_is(tmp_path):
    """TIES of adapters is dense; TSV keeps factors; tasks need neither."""
    base = tiny.save_base(tmp_path / "base", hidden_size=64, intermediate_size=128, head_dim=16)
    for i in range(3):
        tiny.save_adapter(tmp_path / f"t{i}", base, i, target_modules=["gate_proj", "down_proj"])
    ties = bundle_of(tmp_path, "ties", shared={"method": "ties"})
    with pytest.raises(InputError, match=r"static: 4 of 4 changed parameters .* with 100 % of the energy"):
        export(ties, [{}], tmp_path / "refused")
    export(ties, [{"t1": 1.0}], tmp_path / "task", "vllm")
    assert_alike(adapted(tmp_path / "task", "t1"), composed(ties, {"t1": 1.0}), 1e-4)
    export_merged(ties, {}, tmp_path / "merged", progress=silent)
    assert_alike(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), composed(ties, {}), 1e-5)
    (empty,) = export(ties, [{}], tmp_path / "lossy", "vllm", lossy=True)
    assert empty.share == 1.0
    assert_alike(adapted(tmp_path / "lossy", "static"), base, 1e-6)
    tsv = bundle_of(tmp_path, "tsv", shared={"method": "tsv"})
    export(tsv, [{}], tmp_path / "out", "vllm")
    assert_alike(adapted(tmp_path / "out", "static"), composed(tsv, {}), 1e-4)
    with pytest.raises(InputError, match="unknown task 'shared'"):
        export(tsv, [{"shared": 1.0}], tmp_path / "no")


def test_quantised_experts_are_exported_as_floats(tmp_path):
    bundle = full_bundle(tmp_path, "llama", VECTORS, dtype="int8")
    assert (bundle.path / "experts" / "t1" / "quantised.safetensors").is_file()
    for form in ("peft", "vllm"):
        out = tmp_path / form
        export(bundle, MIXTURES[1:], out, form, lossy=form == "vllm")
        if form == "peft":
            assert_alike(adapted(out, "t1"), composed(bundle, {"t1": 1.0}), 1e-4)
    export(bundle, [{"t1": 1.0}], tmp_path / "half", dtype=torch.float16)
    tensors = load_file(tmp_path / "half" / "adapters" / "t1" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}


def test_names_and_ranks():
    assert mixture_name({"a": 0.5}) == "a@0.5" and mixture_name({"a": 1.0}) == "a"
    long = mixture_name({f"task-{i}" * 5: 0.1 for i in range(9)})
    assert len(long) < 100 and long != mixture_name({f"task-{i}" * 5: 0.2 for i in range(9)})
    assert [largest_rank("a", r) for r in (1, 8, 9, 257, 512)] == [8, 8, 16, 320, 512]
    with pytest.raises(InputError, match="a: rank 513 is above 512"):
        largest_rank("a", 513)


def test_energy_and_identity_of_factors():
    matrix = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    for one in (matrix, matrix.T.contiguous()):
        exact = LowRank.exactly(one)
        assert exact.is_exact and exact.energy == pytest.approx(float(one.square().sum()), rel=1e-5)
    factors = LowRank(matrix[:3], matrix[:, :3] @ torch.diag(torch.ones(3)), 0.5)
    assert not factors.is_exact
    assert factors.energy == pytest.approx(float(factors.dense(torch.float64).square().sum()), rel=1e-9)
