"""Gram matrices against those of an ordinary forward pass, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.finetunes import open_finetune
from compress.gathering import gather_grams
from compress.grams import Grams, packed, unpacked
from compress.streamed import BATCH_TOKENS, batches
from tests import tiny
from tests.bundles import silent

PROMPTS = [tiny.prompt(seed, length) for seed, length in enumerate((3, 11, 6, 11, 1))]


def gathered(folder, base, tuned, prompts=PROMPTS):
    return gather_grams(tuned, base, prompts, folder / "grams", stage="", progress=silent)


def expected(model, prompts):
    """Mean x x^T of every linear layer's inputs, one unpadded prompt at a time, float64."""
    sums, model, count = {}, model.double().eval(), sum(map(len, prompts))
    kinds = (torch.nn.Linear, __import__("transformers").pytorch_utils.Conv1D)

    def hook(name):
        def add(_, inputs):
            rows = inputs[0].reshape(-1, inputs[0].shape[-1])
            sums[name] = sums.get(name, 0) + rows.T @ rows / count

        return add

    for name, module in model.named_modules():
        if isinstance(module, kinds):
            module.register_forward_pre_hook(hook(name))
    with torch.no_grad():
        for prompt in prompts:
            model(input_ids=torch.tensor([prompt]))
    return sums


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_grams_are_those_of_the_fine_tune_without_padding(tmp_path, family, kind, monkeypatch):
    base = tiny.save_base(tmp_path / "base", family)
    if kind == "adapter":
        tuned = tiny.save_adapter(tmp_path / "t", base, 1, target_modules="all-linear").merge_and_unload()
    else:
        tuned = tiny.save_finetune(tmp_path / "t", base, 1)
    opened = Checkpoint.open(tmp_path / "base")
    monkeypatch.setattr("compress.streamed.BATCH_TOKENS", 24)  # several batches, most of them padded
    assert len(batches(PROMPTS)) > 1 and any(not b.mask.all() for b in batches(PROMPTS))
    facts = gathered(tmp_path, opened, open_finetune(tmp_path / "t", opened))
    assert facts.tokens == sum(map(len, PROMPTS)) and facts.prompts == len(PROMPTS)
    grams = Grams(tmp_path / "grams")
    want = expected(tuned, PROMPTS)
    for name, gram in want.items():
        if "lm_head" in name:
            assert grams.gram(name) is None
        else:
            torch.testing.assert_close(grams.gram(name), gram, rtol=1e-4, atol=1e-4 * float(gram.abs().max()))
    if family != "gpt2":
        assert ["q_proj", "k_proj", "v_proj"] in [
            [n.rpartition(".")[2] for n in readers] for readers in facts.readers.values()
        ]


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_triangle_holds_a_symmetric_matrix(size):
    rows = torch.randn(size + 2, size, dtype=torch.float64)
    assert torch.equal(unpacked(packed(rows.T @ rows)), rows.T @ rows)


def test_batches_hold_every_prompt_within_the_limit():
    prompts = [[1] * n for n in (3000, 5, 8000, 4000, 9000, 5)]
    made = batches(prompts)
    assert sorted(int(n) for b in made for n in b.mask.sum(1)) == sorted(map(len, prompts))
    assert all(b.ids.numel() <= BATCH_TOKENS or len(b.ids) == 1 for b in made)


@pytest.mark.parametrize("prompts", [[], [[1, 2], []]])
def test_no_prompts(tmp_path, prompts):
    base = tiny.save_base(tmp_path / "base")
    tiny.save_finetune(tmp_path / "t", base, 1)
    opened = Checkpoint.open(tmp_path / "base")
    with pytest.raises(InputError, match="no prompts, or an empty one"):
        gathered(tmp_path, opened, open_finetune(tmp_path / "t", opened), prompts)
    assert not (tmp_path / "grams").exists()


@pytest.mark.parametrize("damage", ["no facts", "not json", "truncated", "unknown key"])
def test_damaged_grams(tmp_path, damage):
    base = tiny.save_base(tmp_path / "base")
    tiny.save_finetune(tmp_path / "t", base, 1)
    opened = Checkpoint.open(tmp_path / "base")
    gathered(tmp_path, opened, open_finetune(tmp_path / "t", opened))
    folder = tmp_path / "grams"
    facts = folder / "grams.json"
    if damage == "no facts":
        facts.unlink()
    elif damage == "not json":
        facts.write_text("{")
    elif damage == "unknown key":
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"x": 1}))
    else:
        shard = sorted(folder.glob("*.safetensors"))[0]
        shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InputError, match="grams"):
        Grams(folder)
