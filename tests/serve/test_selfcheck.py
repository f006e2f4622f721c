"""Which decoders are served, and that the others are refused instead of answering wrongly."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import AutoModelForCausalLM

from compress.errors import InputError
from serve.kvcache import SlotCache, check_cacheable
from serve.mixture import MixtureModel
from serve.planner import Planner
from serve.runner import Runner
from serve.selfcheck import check_decoder
from tests import tiny
from tests.serve.packed import COSTS


def check(model):
    config = model.config.get_text_config(decoder=True)
    check_cacheable(config)
    mixture = MixtureModel(model)
    runner = Runner(mixture, SlotCache(config), Planner(mixture, COSTS, 0))
    check_decoder(runner)
    assert runner.cache.nbytes == 0, "nothing of the check remains"


def made(family):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny.config(family)).eval()


# Rotary, learned and offset positions; grouped queries; soft caps; windows; sinks; routed experts.
@pytest.mark.parametrize(
    "family",
    [
        "llama",
        "gpt2",
        "opt",
        "phi3",
        "qwen3",
        "gemma2",
        "gemma3_text",
        "mistral",
        "cohere2",
        "persimmon",
        "gpt_neox",
        "mixtral",
        "gpt_oss",
    ],
)
def test_packed_requests_get_the_decoders_own_logits(family):
    check(made(family))


def test_rounding_in_half_precision_is_no_reason_to_refuse():
    check(made("llama").bfloat16())


@pytest.mark.parametrize(
    ("family", "sentence"),
    [
        ("bloom", "BloomForCausalLM does not use transformers' attention interface"),
        ("mamba", "'mamba' has linear_attention, state_size layers, whose state the cache cannot hold"),
        ("jamba", "'jamba' has linear_attention, mamba_d_state layers"),
        ("rwkv", "'rwkv' has attention_hidden_size layers"),
    ],
)
def test_decoders_that_keep_something_else_are_refused(family, sentence):
    with pytest.raises(InputError, match=sentence):
        check(made(family))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoder_that_looks_at_its_neighbours_is_refused(dtype):
    """As a convolution over tokens would: packed, the neighbours belong to somebody else."""
    model = made("llama").to(dtype)
    norm = model.model.layers[1].input_layernorm
    forward = norm.forward
    norm.forward = lambda x: forward(x + 2 * x.roll(1, 1))
    with pytest.raises(InputError, match="requests get other logits than alone"):
        check(model)


def test_attention_with_something_unknown_is_refused(monkeypatch):
    logging.getLogger("serve.runner").disabled = True
    model = made("llama")
    attention = model.model.layers[0].self_attn
    forward = attention.forward
    attention.forward = lambda *args, **kwargs: forward(*args, **kwargs, head_mask=torch.ones(4))
    try:
        with pytest.raises(InputError, match=r"cannot share a batch .+attention with head_mask"):
            check(model)
    finally:
        logging.getLogger("serve.runner").disabled = False
