"""A bundle's base and adapters as GGUF files in float32, for llama.cpp.

Tensor names, metadata and the order of rows are those of its own convert_hf_to_gguf.py and
convert_lora_to_gguf.py; written here because its Python package does not carry them, and without a
vocabulary because prompts are token ids.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from compress.bundle import Bundle
from compress.errors import InputError
from compress.loading import load_model

ARCHITECTURE = gguf.MODEL_ARCH.LLAMA
PREFIX = "base_model.model."
Array = npt.NDArray[np.float32]


def convert(bundle: Bundle, folder: Path) -> tuple[Path, dict[str, Path]]:
    """base.gguf and <task>.gguf in ``folder``, made where they are missing."""
    model: Any = None
    base = folder / "base.gguf"
    adapters = {task: folder / f"{task}.gguf" for task in bundle.tasks}
    folder.mkdir(parents=True, exist_ok=True)
    if not all(path.exists() for path in (base, *adapters.values())):
        model = load_model(bundle.base, torch.float32)
        if model.config.model_type != "llama":
            raise InputError(f"{bundle.base}: only a Llama is converted, not {model.config.model_type}")
        write_base(model, base)
        for task, path in adapters.items():
            write_adapter(bundle.path / "experts" / task, model.config, path)
    return base, adapters


def write_base(model: Any, path: Path) -> None:
    """The weights and what llama.cpp has to know of their architecture."""
    config, writer = model.config, _writer(path)
    writer.add_name(path.stem)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("no_vocab")
    names = gguf.get_tensor_name_map(ARCHITECTURE, config.num_hidden_layers)
    for name, tensor in model.named_parameters():
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(target, rotated(name, tensor.detach().numpy(), config))
    _close(writer)


def write_adapter(folder: Path, config: Any, path: Path) -> None:
    """One PEFT folder. Only B has the rows that llama.cpp orders otherwise."""
    settings = json.loads((folder / "adapter_config.json").read_text())
    writer = _writer(path)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(settings["lora_alpha"]))
    names = gguf.get_tensor_name_map(ARCHITECTURE, config.num_hidden_layers)
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        module, _, factor = key.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        name = module + ".weight"
        target = names.get_name(name, try_suffixes=(".weight",))
        array = np.ascontiguousarray(tensor.float().numpy())
        if factor == "lora_B":
            array = rotated(name, array, config)
        writer.add_tensor(f"{target}.{factor.lower()}", array)
    _close(writer)


def rotated(name: str, array: Array, config: Any) -> Array:
    """Rows of q and k in llama.cpp's order: pairs that rotate together stand side by side in its rotary
    embedding, half a head apart in transformers'."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = next((n for module, n in heads.items() if f".{module}." in name), None)
    if count is None:
        return array
    halves = array.reshape(count, 2, array.shape[0] // count // 2, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))


def _writer(path: Path) -> Any:
    return gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURE])


def _close(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
