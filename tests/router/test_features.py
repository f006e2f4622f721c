"""Features: the right layer, pooled over the prompt alone, at the cost of the layers asked for."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress.errors import InputError
from router.features import HiddenStateFeatures, decoder_layers
from tests import tiny

BATCH = [tiny.prompt(seed, length) for seed, length in enumerate((3, 11, 1, 7, 20, 6))]


@pytest.fixture(params=tiny.FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return tiny.model(request.param)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_equal_to_the_hidden_state_of_the_whole_model(model: Any, pooling: Any) -> None:
    features = HiddenStateFeatures(layer=1, pooling=pooling).extract(model, BATCH)
    assert features.dtype == np.float32 and features.shape == (len(BATCH), 32)
    for row, ids in zip(features, BATCH, strict=True):
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0]
        states /= states.square().mean(dim=1, keepdim=True).sqrt()
        expected = states[-1] if pooling == "last" else states.mean(dim=0)
        np.testing.assert_allclose(row, expected.numpy(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("layer", [1, 2])
def test_a_row_is_the_same_alone_and_in_any_batch(model: Any, layer: int, pooling: Any) -> None:
    settings = {"layer": layer, "pooling": pooling}
    together = HiddenStateFeatures(**settings, batch_size=4).extract(model, BATCH)
    for row, ids in zip(together, BATCH, strict=True):
        alone = HiddenStateFeatures(**settings).extract(model, [ids])[0]
        np.testing.assert_allclose(row, alone, atol=1e-5, rtol=1e-5)


def test_one_huge_token_does_not_drown_the_others() -> None:
    model, ids = tiny.model("llama"), [5, 6, 7, 8, 9, 10]
    settings = HiddenStateFeatures(layer=1)
    before = settings.extract(model, [ids])
    with torch.no_grad():
        model.get_input_embeddings().weight[5] *= 1000
    change = np.linalg.norm(settings.extract(model, [ids]) - before) / np.linalg.norm(before)
    assert change < 1


def test_deeper_layers_and_head_do_not_run(model: Any) -> None:
    run = []
    for module in (decoder_layers(model)[1], model.lm_head):
        module.register_forward_hook(lambda *_: run.append(1))
    HiddenStateFeatures(layer=1).extract(model, BATCH)
    assert not run


def test_the_hook_is_removed_even_after_an_error(model: Any) -> None:
    layer = decoder_layers(model)[0]
    HiddenStateFeatures(layer=1).extract(model, BATCH)
    assert not layer._forward_hooks
    with pytest.raises(IndexError):
        HiddenStateFeatures(layer=1).extract(model, [[tiny.VOCABULARY + 5]])
    assert not layer._forward_hooks
    assert model(torch.tensor([BATCH[0]])).logits.shape == (1, 3, tiny.VOCABULARY)


def test_another_thread_can_use_the_model_meanwhile() -> None:
    model = tiny.model("llama")
    outputs: list[Any] = []
    started = False

    def ask_elsewhere(*_: Any) -> None:
        nonlocal started
        if not started:
            started = True
            ids = torch.tensor([BATCH[0]])
            thread = threading.Thread(target=lambda: outputs.append(model(ids).logits))
            thread.start()
            thread.join()

    model.model.embed_tokens.register_forward_hook(ask_elsewhere)
    HiddenStateFeatures(layer=1).extract(model, BATCH)
    assert outputs[0].shape == (1, 3, tiny.VOCABULARY)


def test_only_the_last_tokens_of_a_long_prompt_count() -> None:
    model = tiny.model("llama")
    long = tiny.prompt(1, 30)
    short = HiddenStateFeatures(layer=1, max_tokens=8)
    np.testing.assert_allclose(short.extract(model, [long]), short.extract(model, [long[-8:]]), atol=1e-6)


def test_a_prompt_longer_than_learned_positions_is_cut() -> None:
    model = tiny.model("gpt2", n_positions=16)
    assert HiddenStateFeatures(layer=1).extract(model, [tiny.prompt(1, 40)]).shape == (1, 32)


def test_no_gradient_no_change_of_the_model_and_repeatable() -> None:
    model = tiny.model("gpt2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (HiddenStateFeatures(layer=2).extract(model, BATCH) for _ in range(2))
    assert (first == second).all()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_half_precision_models_give_float32_features() -> None:
    model = tiny.model("llama")
    exact = HiddenStateFeatures(layer=1).extract(model, BATCH)
    rounded = HiddenStateFeatures(layer=1).extract(model.to(torch.bfloat16), BATCH)
    assert rounded.dtype == np.float32
    assert np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()


def test_layers_that_return_tuples_and_wrapped_models() -> None:
    class TupleLayer(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *args: Any, **options: Any) -> tuple[Any, None]:
            return self.inner(*args, **options), None

    model = tiny.model("llama")
    plain = HiddenStateFeatures(layer=1).extract(model, BATCH)
    model.model.layers[0] = TupleLayer(model.model.layers[0])
    np.testing.assert_array_equal(HiddenStateFeatures(layer=1).extract(model, BATCH), plain)
    np.testing.assert_array_equal(HiddenStateFeatures(layer=1).extract(model.model, BATCH), plain)


def test_progress_ends_at_the_total_and_an_empty_batch_is_no_rows() -> None:
    model = tiny.model("llama")
    seen: list[tuple[int, int]] = []
    HiddenStateFeatures(batch_size=4).extract(model, BATCH, lambda *now: seen.append(now))
    assert seen == [(4, 6), (6, 6)]
    assert HiddenStateFeatures().extract(model, []).shape == (0, 32)


def test_default_depth_is_a_share_of_the_model_and_at_least_one_layer() -> None:
    assert HiddenStateFeatures().depth(tiny.model("llama", num_hidden_layers=12)) == 4
    assert HiddenStateFeatures().depth(tiny.model("llama", num_hidden_layers=1)) == 1


def test_refusals() -> None:
    model = tiny.model("llama")
    for layer in (0, 3, -1):
        with pytest.raises(InputError, match=r"layer -?\d does not exist.*1 to 2"):
            HiddenStateFeatures(layer=layer).extract(model, BATCH)
    with pytest.raises(InputError, match="prompt 2 of 2 has no tokens"):
        HiddenStateFeatures().extract(model, [[5], []])
    with pytest.raises(InputError, match="training mode"):
        HiddenStateFeatures().extract(tiny.model("llama").train(), BATCH)
    with pytest.raises(InputError, match="no config"):
        HiddenStateFeatures().extract(nn.Linear(2, 2), BATCH)
    del model.model.layers
    with pytest.raises(InputError, match="no list of 2 decoder layers"):
        HiddenStateFeatures().extract(model, BATCH)
