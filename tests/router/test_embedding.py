"""Embedding features: the mean of normalised rows of the table, and no forward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from compress.errors import InputError
from router.features.embedding import BATCH, EmbeddingFeatures
from router.query import Turn
from tests import tiny

FEATURES = EmbeddingFeatures()
TURNS = [Turn("", tuple(tiny.prompt(seed, length))) for seed, length in enumerate((3, 11, 1, 7, 20, 6))]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_equal_to_a_loop_over_the_table(family: str) -> None:
    model = tiny.model(family)
    table = model.get_input_embeddings().weight.detach().double().numpy()
    found = FEATURES.extract(model, TURNS)
    assert found.dtype == np.float32 and found.shape == (len(TURNS), 32)
    for row, turn in zip(found, TURNS, strict=True):
        states = [table[token] / np.sqrt((table[token] ** 2).mean()) for token in turn.ids]
        np.testing.assert_allclose(row, np.mean(states, axis=0), atol=1e-6)


def test_a_row_is_the_same_alone_and_in_any_batch(model: Any) -> None:
    many = [Turn("", tuple(tiny.prompt(seed, 1 + seed % 9))) for seed in range(BATCH + 40)]
    together = FEATURES.extract(model, many)
    assert together.shape == (len(many), 32)
    for index in (0, 1, BATCH - 1, BATCH, len(many) - 1):
        np.testing.assert_array_equal(together[index], FEATURES.extract(model, [many[index]])[0])


def test_one_huge_token_does_not_drown_the_others() -> None:
    model, turn = tiny.model("llama"), Turn("", (5, 6, 7))
    before = FEATURES.extract(model, [turn])
    with torch.no_grad():
        model.get_input_embeddings().weight[5] *= 1000
    np.testing.assert_allclose(FEATURES.extract(model, [turn]), before, rtol=1e-5, atol=1e-6)


def test_no_layer_runs(model: Any) -> None:
    run: list[int] = []
    handles = [module.register_forward_hook(lambda *_: run.append(1)) for module in model.model.layers]
    FEATURES.extract(model, TURNS)
    assert not run
    model(torch.tensor([TURNS[0].ids]))
    assert len(run) == 2
    for handle in handles:
        handle.remove()


def test_half_precision_models_give_float32_features() -> None:
    model = tiny.model("llama")
    exact = FEATURES.extract(model, TURNS)
    rounded = FEATURES.extract(model.to(torch.bfloat16), TURNS)
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(rounded, exact, atol=0.03)


def test_progress_ends_at_the_total_and_no_turns_are_no_rows(model: Any) -> None:
    seen: list[tuple[int, int]] = []
    FEATURES.extract(model, TURNS * 50, lambda *now: seen.append(now))
    assert seen == [(256, 300), (300, 300)]
    assert FEATURES.extract(model, []).shape == (0, 32)


def test_a_turn_without_tokens_is_refused(model: Any) -> None:
    with pytest.raises(InputError, match="no tokens: nothing to route"):
        FEATURES.extract(model, [TURNS[0], Turn("?", ())])
