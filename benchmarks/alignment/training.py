"""Small models trained from scratch, kept in a cache folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from benchmarks.alignment.text import LENGTH, VOCABULARY, Text
from compress.alignment.calibration import MASKED
from compress.staging import staged

HIDDEN, LAYERS, HEADS = 96, 2, 4
STEPS, ROWS, RATE, WARMUP = 4000, 64, 2e-3, 100
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {
        "intermediate_size": 4 * HIDDEN,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    "llama": {"intermediate_size": 3 * HIDDEN, "num_key_value_heads": 2, "tie_word_embeddings": True},
}


def trained(family: str, seed: int, text: Text, cache: Path, step: Callable[[int, int], None]) -> Path:
    """The folder of a trained model; training is skipped when ``cache`` has it."""
    folder = cache / f"{family}-{HIDDEN}x{LAYERS}-{STEPS}-{seed}"
    if not folder.is_dir():
        model = _train(family, seed, text, step)
        with staged(folder) as private:
            model.save_pretrained(private)
            text.tokenizer.save_pretrained(private)
    return folder


def _train(family: str, seed: int, text: Text, step: Callable[[int, int], None]) -> Any:
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        family,
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        pad_token_id=text.tokenizer.pad_token_id,
        # Of narrow layers: about 1 / sqrt(HIDDEN), as wide ones get from the usual 0.02.
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=text.tokenizer.eos_token_id,
        **FAMILIES[family],
    )
    masked = family == "bert"
    model = (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_config(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    pieces = torch.tensor(text.training)
    model.train()
    for number in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (number + 1) / WARMUP) * _cosine(number)
        ids = pieces[torch.randint(len(pieces), (ROWS,))]
        if masked:
            hidden = torch.rand(ids.shape) < MASKED
            logits = model(input_ids=ids.masked_fill(hidden, text.tokenizer.mask_token_id)).logits
            loss = F.cross_entropy(logits[hidden], ids[hidden])
        else:
            logits = model(input_ids=ids, use_cache=False).logits
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step(number + 1, STEPS)
    return model.eval()


def _cosine(number: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * number / STEPS))
