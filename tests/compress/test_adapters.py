"""Adapters against PEFT's own merge, and what is refused by name."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.adapters import Adapter, is_adapter, recorded_base_hash
from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.finetunes import apply, open_finetune, task_vector
from tests import tiny
from tests.bundles import full_zoo

CASES = {
    "plain": ("llama", {"target_modules": "all-linear"}),
    "patterns": (
        "llama",
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"q_proj": 6, "layers.1.mlp.down_proj": 3},
            "alpha_pattern": {"v_proj": 5, "layers.0.self_attn.q_proj": 1},
        },
    ),
    "rslora": ("qwen2", {"target_modules": ["q_proj", "up_proj"], "use_rslora": True, "r": 8}),
    "saved modules": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "all biases": ("qwen2", {"target_modules": ["q_proj"], "bias": "all"}),
    "own biases": ("qwen2", {"target_modules": ["q_proj"], "bias": "lora_only"}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "o_proj"]}),
    "conv1d": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
    "conv1d biases": ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True, "bias": "all"}),
}


@pytest.mark.parametrize("case", CASES)
def test_task_vectors_equal_pefts_merge(tmp_path, case):
    family, settings = CASES[case]
    model = tiny.save_base(tmp_path / "base", family)
    merged = tiny.save_adapter(tmp_path / "adapter", model, 3, **settings).merge_and_unload()
    base = Checkpoint.open(tmp_path / "base")
    assert is_adapter(tmp_path / "adapter") and not is_adapter(tmp_path / "base")
    adapter = Adapter(tmp_path / "adapter", base.table)
    theirs = dict(merged.named_parameters())
    moved = set()
    for name in base.table:
        delta = task_vector(adapter, name, base)
        expected = (theirs[name] - base.weight(name)).detach()
        if delta is None:
            delta = torch.zeros_like(expected)
        elif delta.any():
            moved.add(name)
        torch.testing.assert_close(delta, expected, rtol=1e-5, atol=1e-5)
    assert moved


@pytest.fixture
def adapter(tmp_path):
    model = tiny.save_base(tmp_path / "base")
    tiny.save_adapter(tmp_path / "adapter", model, 3, target_modules=["q_proj"])
    table = Checkpoint.open(tmp_path / "base").table

    def reopen(**changes):
        path = tmp_path / "adapter" / "adapter_config.json"
        config = json.loads(path.read_text()) | changes
        path.write_text(json.dumps(config))
        return Adapter(tmp_path / "adapter", table)

    reopen.folder = tmp_path / "adapter"
    return reopen


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"some_future_switch": True}, "some_future_switch"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"lora_alpha": None}, "lora_alpha"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(adapter, changes, name):
    with pytest.raises(InputError, match=name):
        adapter(**changes)


def rewrite(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_adapter_of_another_model_is_refused(adapter):
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    rewrite(adapter.folder, lambda t: t.update({key: torch.ones(4, 48)}))
    with pytest.raises(InputError, match=r"q_proj.*belongs to another model"):
        adapter()


def test_adapter_of_a_deeper_model_is_refused(adapter):
    key = "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"
    rewrite(adapter.folder, lambda t: t.update({key: torch.ones(4, 32)}))
    with pytest.raises(InputError, match=r"layers\.7.*does not have"):
        adapter()


def test_half_a_pair_is_refused(adapter):
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    rewrite(adapter.folder, lambda t: t.pop(key))
    with pytest.raises(InputError, match="only one of its two LoRA factors"):
        adapter()


def test_nan_is_refused_when_read(adapter):
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    rewrite(adapter.folder, lambda t: t[key].fill_(float("nan")))
    opened = adapter()
    with pytest.raises(InputError, match=r"lora_B.*NaN"):
        opened.low_rank("model.layers.0.self_attn.q_proj.weight")


def test_truncated_file_is_refused(adapter):
    path = adapter.folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"adapter_model\.safetensors.*not a complete"):
        adapter()


def test_pickled_adapter_is_refused(adapter):
    (adapter.folder / "adapter_model.safetensors").unlink()
    (adapter.folder / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match=r"pickle \(adapter_model\.bin\).*never opened"):
        adapter()


@pytest.mark.parametrize("settings", [{"target_modules": ["wte"]}, {"target_modules": ["c_attn", "lm_head"]}])
def test_adapters_that_untie_the_head_are_refused(tmp_path, settings):
    model = tiny.save_base(tmp_path / "base", "gpt2")
    tiny.save_adapter(tmp_path / "adapter", model, 3, **settings)
    table = Checkpoint.open(tmp_path / "base").table
    with pytest.raises(InputError, match="whose weight the base ties"):
        Adapter(tmp_path / "adapter", table)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlibrary_name: peft\nbase_weights_sha256: abc\n---\n# x", "abc"),
        ("---\nlibrary_name: peft\n---\n# x", None),
        ("# no front matter", None),
        ("---\n: [broken\n---\n", None),
        (None, None),
    ],
)
def test_recorded_base_hash(tmp_path, card, expected):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert recorded_base_hash(tmp_path) == expected


def test_missing_folder_parts(tmp_path, adapter):
    shutil.copytree(adapter.folder, tmp_path / "copy")
    (tmp_path / "copy" / "adapter_model.safetensors").unlink()
    table = Checkpoint.open(tmp_path / "base").table
    with pytest.raises(InputError, match=r"no adapter_model\.safetensors found"):
        Adapter(tmp_path / "copy", table)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_an_expert_of_a_bundle_is_read_back_as_the_fine_tunes_task_vector(tmp_path, family):
    """Norms, biases and tied embeddings included, which stand beside the adapter."""
    zoo = full_zoo(tmp_path, family, tasks=1, rank=999, reference="pretrained")
    base = Checkpoint.open(tmp_path / "base")
    expert = open_finetune(zoo.bundle.path / "experts" / "t0", base)
    tuned, plain = (dict(model.named_parameters()) for model in (zoo.tuned["t0"], zoo.base))
    for name in base.table:
        expected = (tuned[name] - plain[name]).detach()
        torch.testing.assert_close(task_vector(expert, name, base), expected, rtol=1e-4, atol=1e-5)
    moved = apply(expert, copy.deepcopy(zoo.base), base)
    ids = torch.tensor([tiny.prompt(1, 9)])
    with torch.no_grad():
        torch.testing.assert_close(moved(ids).logits, zoo.tuned["t0"](ids).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.update({"model.norm.weight": torch.ones(7)}), r"model\.norm\.weight of shape \(7,\)"),
        (lambda t: t.update({"model.other.weight": torch.ones(7)}), "does not belong to the base"),
        (lambda t: t.update({"model.norm.weight": torch.ones(32).int()}), "is I32, not a float tensor"),
        (lambda t: t.update({"model.norm.weight.A": torch.ones(2, 32)}), "does not belong to the base"),
        (lambda t: t.update({"model.embed_tokens.weight": torch.ones(97, 32)}), "is stored twice"),
        (lambda t: t.update({"model.embed_tokens.weight.B": torch.ones(3, 2)}), "belongs to another model"),
        (lambda t: t.pop("model.embed_tokens.weight.A"), "only one of its two factors"),
        (lambda t: t.update({"lm_head.weight.A": torch.ones(2, 32)}), "does not belong to the base"),
    ],
)
def test_what_stands_beside_an_adapter_must_fit_the_base(tmp_path, change, sentence):
    zoo = full_zoo(tmp_path, "gemma", tasks=1, rank=2, reference="pretrained")
    folder = shutil.copytree(zoo.bundle.path / "experts" / "t0", tmp_path / "expert")
    tensors = load_file(folder / "extra.safetensors")
    change(tensors)
    save_file(tensors, folder / "extra.safetensors")
    with pytest.raises(InputError, match=sentence):
        Adapter(folder, Checkpoint.open(tmp_path / "base").table)


def test_another_hash_where_only_what_stands_beside_differs(tmp_path):
    zoo = full_zoo(tmp_path, "gemma", tasks=1, rank=2, reference="pretrained")
    folder = shutil.copytree(zoo.bundle.path / "experts" / "t0", tmp_path / "expert")
    table = Checkpoint.open(tmp_path / "base").table
    before = Adapter(folder, table).sha256()
    tensors = load_file(folder / "extra.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, folder / "extra.safetensors")
    assert Adapter(folder, table).sha256() != before
