"""Natural text of the zoo's data as token ids: to train on, to match and choose on, and to measure on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

# Tasks whose prompts quote what somebody wrote, below one line of instruction.
TASKS = ("movies", "editorials", "products", "tweets")
FOREIGN = ("novel", "speeches")
# Bytes, and short pieces: a small BERT learns nothing from 15 % holes in long texts of rarer tokens.
VOCABULARY = 256 + 3
LENGTH = 32


@dataclass(frozen=True)
class Text:
    """Pieces of ``LENGTH`` token ids to train on, to match and choose on, and to measure on; no sentence
    is in two of them."""

    tokenizer: Any
    training: list[list[int]]
    calibration: list[list[int]]
    heldout: list[list[int]]


def read_text(data: Path) -> Text:
    """The text of ``data``, laid out as examples/zoo/data, and a tokenizer of bytes."""
    heldout = _sentences(data / "test")
    calibration = [text for text in _sentences(data / "router") if text not in set(heldout)]
    taken = {*heldout, *calibration}
    training = [text for text in (*_sentences(data / "train"), *_foreign(data)) if text not in taken]
    tokenizer = _tokenizer()
    return Text(
        tokenizer,
        *(_pieces(tokenizer, texts) for texts in (training, calibration, heldout)),
    )


def _sentences(folder: Path) -> list[str]:
    found = [prompt.partition("\n")[2] for task in TASKS for prompt in _prompts(folder / f"{task}.jsonl")]
    return list(dict.fromkeys(found))


def _foreign(data: Path) -> list[str]:
    return [prompt for name in FOREIGN for prompt in _prompts(data / "foreign" / f"{name}.jsonl")]


def _prompts(path: Path) -> list[str]:
    return [str(json.loads(line)["prompt"]) for line in path.read_text().splitlines()]


def _tokenizer() -> Any:
    special = ["<pad>", "<sep>", "<mask>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<sep>", mask_token="<mask>"
    )


def _pieces(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """One stream of all texts, each closed by a separator, cut into whole pieces."""
    stream: list[int] = []
    for ids in tokenizer(list(texts))["input_ids"]:
        stream += [*ids, tokenizer.eos_token_id]
    return [stream[at : at + LENGTH] for at in range(0, len(stream) - LENGTH + 1, LENGTH)]
