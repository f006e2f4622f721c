"""Hidden-state features: the right layer, pooled over the turn alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from router.features.hidden import HiddenStateFeatures
from router.query import Turn
from tests import tiny

# More than one forward takes.
TURNS = [Turn("", tuple(tiny.prompt(seed, length))) for seed, length in enumerate([3, 11, 1, 7, 20, 6] * 3)]


@pytest.fixture(params=tiny.FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return tiny.model(request.param)


@pytest.mark.parametrize("pooling", ["mean", "last", "both"])
def test_equal_to_the_hidden_state_of_the_whole_model(model: Any, pooling: Any) -> None:
    features = HiddenStateFeatures(layer=1, pooling=pooling).extract(model, TURNS)
    assert features.dtype == np.float32 and features.shape == (len(TURNS), 64 if pooling == "both" else 32)
    for row, turn in zip(features, TURNS, strict=True):
        with torch.no_grad():
            states = model(torch.tensor([turn.ids]), output_hidden_states=True).hidden_states[1][0]
        states /= states.square().mean(dim=1, keepdim=True).sqrt()
        parts = {"mean": [states.mean(dim=0)], "last": [states[-1]]}
        parts["both"] = parts["mean"] + parts["last"]
        expected = torch.cat(parts[pooling])
        np.testing.assert_allclose(row, expected.numpy(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "last", "both"])
@pytest.mark.parametrize("layer", [1, 2])
def test_a_row_is_the_same_alone_and_in_any_batch(model: Any, layer: int, pooling: Any) -> None:
    settings = {"layer": layer, "pooling": pooling}
    together = HiddenStateFeatures(**settings).extract(model, TURNS)
    for row, turn in zip(together, TURNS, strict=True):
        alone = HiddenStateFeatures(**settings).extract(model, [turn])[0]
        np.testing.assert_allclose(row, alone, atol=1e-5, rtol=1e-5)


def test_one_huge_token_does_not_drown_the_others() -> None:
    model, turn = tiny.model("llama"), Turn("", (5, 6, 7, 8, 9, 10))
    settings = HiddenStateFeatures(layer=1)
    before = settings.extract(model, [turn])
    with torch.no_grad():
        model.get_input_embeddings().weight[5] *= 1000
    change = np.linalg.norm(settings.extract(model, [turn]) - before) / np.linalg.norm(before)
    assert change < 1


def test_no_gradient_no_change_of_the_model_and_repeatable() -> None:
    model = tiny.model("gpt2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (HiddenStateFeatures(layer=2).extract(model, TURNS) for _ in range(2))
    assert (first == second).all()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_half_precision_models_give_float32_features() -> None:
    model = tiny.model("llama")
    exact = HiddenStateFeatures(layer=1).extract(model, TURNS)
    rounded = HiddenStateFeatures(layer=1).extract(model.to(torch.bfloat16), TURNS)
    assert rounded.dtype == np.float32
    assert np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()
