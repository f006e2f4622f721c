"""Adapters that are no sum of two factors: their merged weights are PEFT's."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PromptTuningConfig, VeraConfig, get_peft_model

from compress.checkpoints import Checkpoint
from compress.compose import factor_weights, load_composed
from compress.errors import InputError
from compress.finetunes import open_finetune
from tests import tiny
from tests.bundles import build_bundle, write_recipe

TARGETS = ["q_proj", "down_proj"]
KINDS = {
    "dora": LoraConfig(r=4, use_dora=True, target_modules=TARGETS),
    "loha": LoHaConfig(r=4, target_modules=TARGETS),
    "vera": VeraConfig(r=4, target_modules=["q_proj"]),
    "ia3": IA3Config(target_modules=TARGETS, feedforward_modules=["down_proj"]),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TWINSERVE_CACHE", str(tmp_path / "cache"))


def saved(folder, base, config):
    torch.manual_seed(1)
    adapted = get_peft_model(copy.deepcopy(base), config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    return adapted.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_peft_merges(tmp_path, kind):
    base = tiny.save_base(tmp_path / "base")
    adapted = saved(tmp_path / kind, base, KINDS[kind])
    opened = Checkpoint.open(tmp_path / "base")
    ids = torch.tensor([tiny.prompt(0, 9)])
    with torch.no_grad():
        before = adapted(input_ids=ids).logits
    expected = dict(adapted.merge_and_unload().named_parameters())
    finetune = open_finetune(tmp_path / kind, opened)
    for name in opened.table:
        torch.testing.assert_close(finetune.weight(name), expected[name].detach(), rtol=1e-5, atol=1e-6)
    recipe = write_recipe(
        tmp_path / "r.yaml",
        base=str(tmp_path / "base"),
        experts=[{"task": kind, "checkpoint": str(tmp_path / kind)}],
        exclusive={"rank": 99},
    )
    bundle = build_bundle(recipe, tmp_path / "bundle")
    served = load_composed(bundle, factor_weights({kind: 1.0}, bundle.carried, bundle.scalings))
    with torch.no_grad():
        after = served(input_ids=ids).logits
        plain = base(input_ids=ids).logits
    assert (after - before).abs().max() < 1e-3 * before.std()
    assert (plain - before).abs().max() > 1e-2 * before.std()


def test_it_is_merged_once(tmp_path):
    base = tiny.save_base(tmp_path / "base")
    saved(tmp_path / "dora", base, KINDS["dora"])
    opened = Checkpoint.open(tmp_path / "base")
    folders = {open_finetune(tmp_path / "dora", opened).folder for _ in range(2)}
    (folder,) = folders
    assert folder.is_relative_to(tmp_path / "cache")


def test_soft_prompts_are_no_weights(tmp_path):
    base = tiny.save_base(tmp_path / "base")
    saved(tmp_path / "soft", base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(InputError, match="PEFT cannot merge this adapter") as caught:
        open_finetune(tmp_path / "soft", Checkpoint.open(tmp_path / "base"))
    assert "\n" not in str(caught.value)


def test_a_pickle_is_not_opened(tmp_path):
    base = tiny.save_base(tmp_path / "base")
    saved(tmp_path / "dora", base, KINDS["dora"])
    (tmp_path / "dora" / "adapter_model.safetensors").rename(tmp_path / "dora" / "adapter_model.bin")
    with pytest.raises(InputError, match="a pickle is never opened"):
        open_finetune(tmp_path / "dora", Checkpoint.open(tmp_path / "base"))
