"""What alignment is for: strangers become averageable, relatives are left alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from compress.alignment import Alignment, align
from compress.alignment.architectures import PARTS, RESIDUAL, architecture
from compress.alignment.permutations import apply, inverse
from tests.permuted import MASK, config, empty, masking_tokenizer, symmetry_of
from tests.tiny import VOCABULARY, save_base, save_finetune

LENGTH, STEPS = 16, 150


def language(seed: int, count: int, rule: int = 0) -> torch.Tensor:
    """Texts [count, LENGTH] in which the next token follows from the last two, with some noise."""
    generator = torch.Generator().manual_seed(seed)
    followers = torch.randperm(16, generator=torch.Generator().manual_seed(rule))
    texts = torch.randint(16, (count, LENGTH), generator=generator)
    noise = torch.rand(count, LENGTH, generator=generator) < 0.1
    for at in range(2, LENGTH):
        following = followers[(texts[:, at - 1] + 3 * texts[:, at - 2] % 2) % 16]
        texts[:, at] = torch.where(noise[:, at], texts[:, at], following)
    return texts + 4


def train(model: Any, seed: int, steps: int, rule: int = 0, rate: float = 5e-3) -> Any:
    torch.manual_seed(seed)
    masked = architecture(model.config).masked
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    texts = language(seed, steps * 32, rule).split(32)
    for at, ids in enumerate(texts):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - at / steps)
        if masked:
            hidden = torch.rand(ids.shape) < 0.15
            logits, targets = model(input_ids=ids.masked_fill(hidden, MASK)).logits[hidden], ids[hidden]
        else:
            logits, targets = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1), ids[:, 1:]
        optimizer.zero_grad()
        F.cross_entropy(logits, targets.flatten()).backward()
        optimizer.step()
    return model


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    masking_tokenizer().save_pretrained(folder)
    return folder


def stranger(case: str, seed: int) -> Any:
    torch.manual_seed(seed)
    return train(empty(config(case)), seed, STEPS)


@pytest.fixture(scope="module")
def base() -> Any:
    return stranger("llama tied", 0)


@pytest.fixture(scope="module")
def other() -> Any:
    return stranger("llama tied", 1)


def texts() -> list[list[int]]:
    return language(1000, 100).tolist()


def check(found: Alignment, reference: Path, model: Path) -> None:
    """The choice is the lowest, and holds on text that chose nothing."""
    losses = found.losses.midpoints
    assert losses[found.chosen] == min(losses.values())
    if found.abstains:
        assert found.permutations == {}
    else:
        assert losses[found.chosen] < losses[()]


def test_strangers_come_closer(tmp_path, base, other):
    first, second = save(base, tmp_path / "a"), save(other, tmp_path / "b")
    found = align(first, second, texts())
    check(found, first, second)
    plain, best = found.losses.barrier(()), found.losses.barrier(found.chosen)
    assert found.losses.reference < 1.5 and found.losses.model < 1.5
    assert not found.abstains
    assert best < 0.9 * plain


def test_masked_language_models_come_closer_too(tmp_path):
    first, second = (save(stranger("bert", seed), tmp_path / str(seed)) for seed in (0, 1))
    found = align(first, second, texts())
    check(found, first, second)
    assert not found.abstains
    assert found.losses.barrier(found.chosen) < 0.9 * found.losses.barrier(())


def test_a_reordered_copy_of_a_trained_model_is_brought_back(tmp_path, base):
    other = copy.deepcopy(base)
    hidden = symmetry_of(other, 3)
    other.load_state_dict(apply(hidden, other.state_dict(), architecture(other.config)))
    found = align(save(base, tmp_path / "a"), save(other, tmp_path / "b"), texts())
    assert found.chosen == PARTS
    assert found.losses.barrier(PARTS) == pytest.approx(0, abs=1e-5)
    for space, order in inverse(hidden).items():
        assert torch.equal(found.permutations.get(space, torch.arange(len(order))), order)


def test_fine_tunes_of_one_base_are_left_alone(tmp_path, base):
    tuned = [train(copy.deepcopy(base), seed, 60, rule=seed, rate=2e-3) for seed in (5, 6)]
    found = align(save(tuned[0], tmp_path / "a"), save(tuned[1], tmp_path / "b"), texts())
    assert found.abstains and found.permutations == {}
    assert found.losses.midpoints.keys() == {()}


@pytest.mark.parametrize("scale", [0.02, 0.2])
def test_random_fine_tunes_of_one_base_are_left_alone(tmp_path, scale):
    made = save_base(tmp_path / "base")
    for seed in (1, 2):
        save_finetune(tmp_path / str(seed), made, seed, scale)
        masking_tokenizer().save_pretrained(tmp_path / str(seed))
    found = align(tmp_path / "1", tmp_path / "2", torch.randint(4, VOCABULARY, (20, 40)).tolist())
    assert found.abstains and found.permutations == {}


def test_identical_models_are_left_alone(tmp_path, base):
    found = align(save(base, tmp_path / "a"), save(base, tmp_path / "b"), texts())
    assert found.abstains and found.permutations == {}
    assert found.losses.barrier(()) == pytest.approx(0, abs=1e-6)


def test_the_stream_is_aligned_only_where_that_helps(tmp_path, base):
    # Feed-forward units are reordered and the stream is not: moving it as well could only harm.
    other = copy.deepcopy(base)
    hidden = symmetry_of(other, 3)
    hidden.pop(RESIDUAL)
    other.load_state_dict(apply(hidden, other.state_dict(), architecture(other.config)))
    found = align(save(base, tmp_path / "a"), save(other, tmp_path / "b"), texts())
    assert found.chosen == ("ffn", "attention")
    assert RESIDUAL not in found.permutations


def test_only_the_stream_may_be_aligned(tmp_path, base, other):
    found = align(save(base, tmp_path / "a"), save(other, tmp_path / "b"), texts(), parts=("residual",))
    assert found.losses.midpoints.keys() == {(), ("residual",)}
    assert found.permutations.keys() <= {RESIDUAL}
