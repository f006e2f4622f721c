"""The bundles that are measured: the zoo on SmolLM2, and a wide random Llama with random adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from compress.build import build
from compress.bundle import Bundle, create
from compress.inputs import work_key
from compress.recipe import Recipe, read_recipe
from compress.workspace import workspace
from examples.zoo.adapters import save_adapter, with_adapter

Name = Literal["smollm2", "wide"]
NAMES: tuple[Name, ...] = get_args(Name)
ZOO = Path("configs/zoo.yaml")
RANK = 16


def bundle(name: Name, folder: Path, experts: int = 8) -> Bundle:
    """The bundle in ``folder``, built there when it is not yet. ``experts``: how many the wide model has;
    the zoo has its eight."""
    out = folder / (name if name == "smollm2" else f"{name}-{experts}")
    if out.is_dir():
        return Bundle.open(out)
    if name == "smollm2":
        return _build(read_recipe(ZOO), out)
    return _wide(out, experts)


def _build(recipe: Recipe, out: Path) -> Bundle:
    # No router: workloads say themselves which mixture each request has.
    with workspace(out, work_key(recipe)) as work, create(out) as folder:
        build(recipe, folder, work, progress=lambda *_: None)
    return Bundle.open(out)


def _wide(out: Path, experts: int) -> Bundle:
    """Few layers, as wide as those of a billion parameters: nearly all time goes into matrices."""
    source = out.with_name(out.name + "-source")
    torch.manual_seed(0)
    base: Any = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(
            "llama",
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=4,
            num_attention_heads=32,
            num_key_value_heads=4,
            vocab_size=32000,
            max_position_embeddings=4096,
            tie_word_embeddings=False,
        ),
        dtype=torch.float32,
    )
    base.save_pretrained(source / "base")
    _tokenizer(32000).save_pretrained(source / "base")
    for number in range(experts):
        adapted = with_adapter(base, RANK, "base")
        _randomise(adapted, seed=number)
        save_adapter(adapted, source / f"t{number}")
        base = adapted.unload()
    recipe = Recipe.model_validate(
        {
            "base": str(source / "base"),
            "experts": [{"task": f"t{n}", "checkpoint": str(source / f"t{n}")} for n in range(experts)],
            "shared": {"method": "task_arithmetic", "scaling": 0.3},
            "output": {"dtype": "float16"},
        }
    )
    return _build(recipe, out)


def _randomise(adapted: Any, seed: int) -> None:
    """Fill both factors: PEFT begins with B = 0, an adapter that changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    fill: Callable[..., Any] = torch.nn.init.normal_
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                fill(parameter, std=0.02, generator=generator)


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One made-up word a token: a bundle has a tokenizer, and random tokens have no text."""
    words = {f"w{number}": number for number in range(vocabulary)}
    raw = Tokenizer(models.WordLevel(words, unk_token="w0"))
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="w0", bos_token="w1", eos_token="w2", pad_token="w0"
    )
