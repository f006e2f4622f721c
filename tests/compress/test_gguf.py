"""A GGUF file as base: the same weights as the model that it was written from."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

import compress.gguf
from compress.checkpoints import Checkpoint
from compress.sources import resolve
from tests import tiny

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of rotary dimensions."""
    shape = (heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return np.ascontiguousarray(weight.reshape(shape).swapaxes(1, 2).reshape(weight.shape))


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A tiny Llama in float32 as GGUF."""
    monkeypatch.setenv("TWINSERVE_CACHE", str(tmp_path / "cache"))
    model = tiny.model("llama")
    config = model.config
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(tiny.VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    tokens = [f"<{i}>" if i < 4 else chr(29 + i) for i in range(tiny.VOCABULARY - 2)]
    writer.add_token_list([*tokens, "ab", "bc"])
    writer.add_token_types([3] * 4 + [1] * (tiny.VOCABULARY - 4))
    # Two, because transformers 5.16 mistakes a list of one for a text.
    writer.add_token_merges(["a b", "b c"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if name.endswith("q_proj.weight"):
            array = permuted(array, config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            array = permuted(array, config.num_key_value_heads)
        short = name.removeprefix("model.").removesuffix(".weight")
        outer = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
        if short not in outer:
            _, layer, inner = short.split(".", 2)
            outer[short] = f"blk.{layer}.{NAMES[inner]}"
        writer.add_tensor(f"{outer[short]}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, model


def test_a_gguf_base_is_dequantised_once_into_a_plain_folder(file, monkeypatch):
    path, model = file
    folder = resolve(str(path))
    checkpoint = Checkpoint.open(folder)
    for name, weight in model.named_parameters():
        assert torch.equal(checkpoint.weight(name), weight), name
    assert "quantization_config" not in (folder / "config.json").read_text()
    assert (folder / "tokenizer.json").is_file()
    monkeypatch.setattr(compress.gguf, "_convert", lambda *_: pytest.fail("converted twice"))
    assert resolve(str(path)) == folder


def test_an_interrupted_conversion_leaves_nothing(file, monkeypatch):
    path, _ = file

    def interrupted(_, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compress.gguf, "_convert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            resolve(str(path))
    assert (resolve(str(path)) / "config.json").is_file()
    assert len(list((path.parent / "cache" / "gguf").iterdir())) == 1
