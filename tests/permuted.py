"""Tiny models of every architecture that can be aligned, and random symmetries of them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

from compress.alignment.architectures import FFN, RESIDUAL, Sizes, architecture, sizes
from compress.alignment.calibration import Batch, causal_batches, masked_batches
from compress.alignment.heads import HeadOrder
from compress.alignment.permutations import Permutations
from tests.tiny import VOCABULARY, prompt, tokenizer

GROUPED = {"num_key_value_heads": 2}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {}),
    "bert untied": ("bert", {"tie_word_embeddings": False}),
    "roberta": ("roberta", {}),
    "roberta untied": ("roberta", {"tie_word_embeddings": False}),
    "llama": ("llama", {**GROUPED, "tie_word_embeddings": False}),
    "llama tied": ("llama", {**GROUPED, "tie_word_embeddings": True}),
    "llama ungrouped": ("llama", {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {**GROUPED, "head_dim": 12}),
    "qwen2": ("qwen2", {**GROUPED, "tie_word_embeddings": False}),
    "qwen2 tied": ("qwen2", {**GROUPED, "tie_word_embeddings": True}),
    "qwen3": ("qwen3", {**GROUPED, "head_dim": 16, "tie_word_embeddings": False}),
    "qwen3 tied": ("qwen3", {**GROUPED, "head_dim": 8, "attention_bias": True, "tie_word_embeddings": True}),
}
MASK = 3


def config(case: str, **changes: Any) -> Any:
    """A two-layer configuration."""
    family, settings = CASES[case]
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return AutoConfig.for_model(family, **(common | settings | changes))


def model(case: str, seed: int = 0, **changes: Any) -> Any:
    """A random model in which every parameter, norms and biases too, matters and differs along its axes."""
    torch.manual_seed(seed)
    made = empty(config(case, **changes)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_((0.3 if parameter.dim() == 1 else 0.1) * torch.randn_like(parameter))
    made.config.use_cache = False
    return made


def empty(config: Any) -> Any:
    """A model as transformers starts it."""
    auto = AutoModelForMaskedLM if architecture(config).masked else AutoModelForCausalLM
    return auto.from_config(config)


def weights(model: Any) -> dict[str, torch.Tensor]:
    """Parameters by name, tied ones once."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def random_symmetry(units: Sizes, seed: int, *, rotary: bool) -> Permutations:
    """An order of every space such that the model computes the same."""
    generator = torch.Generator().manual_seed(seed)

    def orders(count: int, size: int) -> torch.Tensor:
        return torch.stack([torch.randperm(size, generator=generator) for _ in range(count)])

    found = {RESIDUAL: orders(1, units.hidden)[0]}
    for layer in range(units.layers):
        found[FFN.format(layer=layer)] = orders(1, units.ffn)[0]
        still = torch.arange(units.width).expand(units.groups, -1)
        heads = HeadOrder(
            groups=orders(1, units.groups)[0],
            members=orders(units.groups, units.members),
            keyed=still if rotary else orders(units.groups, units.width),
            valued=orders(units.groups, units.width),
        )
        found |= heads.permutations(layer)
    return found


def symmetry_of(model: Any, seed: int) -> Permutations:
    """A random symmetry of ``model``."""
    return random_symmetry(sizes(model.config), seed, rotary=architecture(model.config).rotary)


def sequences(count: int = 40, length: int = 24) -> list[list[int]]:
    """Random texts of unequal lengths, so that batches need padding."""
    return [prompt(seed, length - seed % 5) for seed in range(count)]


def batches(masked: bool, texts: list[list[int]] | None = None) -> list[Batch]:
    """Calibration batches of random tokens."""
    texts = texts or sequences()
    return masked_batches(texts, 0, MASK, [0, 1, 2]) if masked else causal_batches(texts, 0)


def masking_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny tokenizer with a mask token."""
    found = tokenizer()
    found.mask_token = "<unk>"
    return found
