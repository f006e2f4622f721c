"""Tiny real models, fine-tunes and adapters for tests, made in milliseconds from fixed seeds."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

FAMILIES = ("llama", "qwen2", "gpt2", "gemma")
VOCABULARY = 97
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def config(family: str, **changes: Any) -> PretrainedConfig:
    """A two-layer configuration of one architecture."""
    if family == "gpt2":
        settings = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    else:
        settings = {
            "hidden_size": 32,
            "intermediate_size": 56,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "head_dim": 8,
            "tie_word_embeddings": family == "gemma",
        }
    settings |= {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return AutoConfig.for_model(family, **(settings | changes))


def tokenizer() -> PreTrainedTokenizerFast:
    """Single characters as tokens, with a chat template."""
    characters = ["<pad>", "<bos>", "<eos>", "<unk>", *map(chr, range(32, 32 + VOCABULARY - 4))]
    raw = Tokenizer(models.WordLevel({c: i for i, c in enumerate(characters)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    tok = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
    )
    tok.chat_template = CHAT_TEMPLATE
    return tok


def model(family: str, seed: int = 0, **changes: Any) -> Any:
    """A random model whose norms and biases are not the trivial ones and logits are far apart."""
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(config(family, **changes)).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.mul_(4.0 if "emb" not in name and "wte" not in name else 8.0)
    return made


def save_base(folder: Path, family: str = "llama", **changes: Any) -> Any:
    """Save a base model with tokenizer; returns the model."""
    base = model(family, **changes)
    base.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return base


def save_finetune(
    folder: Path, base: Any, seed: int, scale: float = 0.2, skip: Iterable[str] = (), rank: int = 4
) -> Any:
    """Save a full fine-tune: every parameter moved, matrices by a random delta of ``rank``."""
    torch.manual_seed(seed)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if any(part in name for part in skip):
                continue
            if parameter.dim() == 1:
                parameter.add_(scale * torch.randn_like(parameter))
            else:
                rows, columns = parameter.shape
                delta = torch.randn(rows, rank) @ torch.randn(rank, columns)
                parameter.add_(delta * scale * parameter.std() / delta.std())
    tuned.save_pretrained(folder)
    return tuned


def save_adapter(folder: Path, base: Any, seed: int, **settings: Any) -> Any:
    """Save a LoRA adapter with non-zero factors; returns the PeftModel (in float32)."""
    torch.manual_seed(seed)
    lora = LoraConfig(**({"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"} | settings))
    adapted = get_peft_model(copy.deepcopy(base), lora)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
            elif parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    return adapted.eval()


def prompt(seed: int, length: int) -> list[int]:
    """Random token ids without special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, VOCABULARY, (length,), generator=generator).tolist()
