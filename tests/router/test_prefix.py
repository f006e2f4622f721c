"""A decoder's first layers: run over the turns at their cost alone, beside whoever else uses the model."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress.errors import InputError
from router.features.hidden import HiddenStateFeatures
from router.features.prefix import decoder_layers, depth_of
from router.query import Turn
from tests import tiny

# More than one forward takes.
TURNS = [Turn("", tuple(tiny.prompt(seed, length))) for seed, length in enumerate([3, 11, 1, 7, 20, 6] * 3)]


@pytest.fixture(params=tiny.FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return tiny.model(request.param)


def test_deeper_layers_and_head_do_not_run(model: Any) -> None:
    run = []
    for module in (decoder_layers(model)[1], model.lm_head):
        module.register_forward_hook(lambda *_: run.append(1))
    HiddenStateFeatures(layer=1).extract(model, TURNS)
    assert not run


def test_the_hook_is_removed_even_after_an_error(model: Any) -> None:
    layer = decoder_layers(model)[0]
    HiddenStateFeatures(layer=1).extract(model, TURNS)
    assert not layer._forward_hooks
    with pytest.raises(IndexError):
        HiddenStateFeatures(layer=1).extract(model, [Turn("", (tiny.VOCABULARY + 5,))])
    assert not layer._forward_hooks
    assert model(torch.tensor([TURNS[0].ids])).logits.shape == (1, 3, tiny.VOCABULARY)


def test_another_thread_can_use_the_model_meanwhile() -> None:
    model = tiny.model("llama")
    outputs: list[Any] = []
    started = False

    def ask_elsewhere(*_: Any) -> None:
        nonlocal started
        if not started:
            started = True
            ids = torch.tensor([TURNS[0].ids])
            thread = threading.Thread(target=lambda: outputs.append(model(ids).logits))
            thread.start()
            thread.join()

    model.model.embed_tokens.register_forward_hook(ask_elsewhere)
    HiddenStateFeatures(layer=1).extract(model, TURNS)
    assert outputs[0].shape == (1, 3, tiny.VOCABULARY)


def test_of_a_turn_longer_than_learned_positions_both_ends_count() -> None:
    model, features = tiny.model("gpt2", n_positions=16), HiddenStateFeatures(layer=1)
    ids = tuple(tiny.prompt(1, 40))
    both_ends = features.extract(model, [Turn("", ids[:8] + ids[-8:])])
    np.testing.assert_array_equal(features.extract(model, [Turn("", ids)]), both_ends)


def test_layers_that_return_tuples_and_wrapped_models() -> None:
    class TupleLayer(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *args: Any, **options: Any) -> tuple[Any, None]:
            return self.inner(*args, **options), None

    model = tiny.model("llama")
    plain = HiddenStateFeatures(layer=1).extract(model, TURNS)
    model.model.layers[0] = TupleLayer(model.model.layers[0])
    np.testing.assert_array_equal(HiddenStateFeatures(layer=1).extract(model, TURNS), plain)
    np.testing.assert_array_equal(HiddenStateFeatures(layer=1).extract(model.model, TURNS), plain)


def test_progress_ends_at_the_total_and_no_turns_are_no_rows() -> None:
    model = tiny.model("llama")
    seen: list[tuple[int, int]] = []
    HiddenStateFeatures().extract(model, TURNS, lambda *now: seen.append(now))
    assert seen == [(16, 18), (18, 18)]
    assert HiddenStateFeatures().extract(model, []).shape == (0, 32)


def test_default_depth_is_a_share_of_the_model_and_at_least_one_layer() -> None:
    assert depth_of(tiny.model("llama", num_hidden_layers=12), None) == 2
    assert depth_of(tiny.model("llama", num_hidden_layers=1), None) == 1
    assert depth_of(tiny.model("llama", num_hidden_layers=4), 3) == 3


def test_refusals() -> None:
    model = tiny.model("llama")
    for layer in (0, 3, -1):
        with pytest.raises(InputError, match=r"layer -?\d does not exist.*1 to 2"):
            HiddenStateFeatures(layer=layer).extract(model, TURNS)
    with pytest.raises(InputError, match="prompt 2 of 2 has no tokens"):
        HiddenStateFeatures().extract(model, [Turn("", (5,)), Turn("", ())])
    with pytest.raises(InputError, match="training mode"):
        HiddenStateFeatures().extract(tiny.model("llama").train(), TURNS)
    with pytest.raises(InputError, match="no config"):
        HiddenStateFeatures().extract(nn.Linear(2, 2), TURNS)
    del model.model.layers
    with pytest.raises(InputError, match="no list of 2 decoder layers"):
        HiddenStateFeatures().extract(model, TURNS)
