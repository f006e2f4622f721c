"""A tiny sentence encoder with a tokenizer, in the files that ``transformers`` reads."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, BertTokenizer

CHARACTERS = string.ascii_lowercase + string.digits


def save_encoder(folder: Path, seed: int = 0, **changes: Any) -> tuple[Any, Any]:
    """A random BERT whose tokens are characters; returns (tokenizer, model)."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *(f"##{c}" for c in CHARACTERS)]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(seed)
    model = BertModel(BertConfig(vocab_size=len(words), **(sizes | changes))).eval()
    with torch.no_grad():
        # As drawn they are so small that every text looks alike.
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer, model
