"""Natural text of the zoo's data as token ids: to train on, to match and choose on, and to measure on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

# Tasks whose prompts quote what somebody wrote, below one line of instruction.
TASKS = ("movies", "editorials", "products", "tweets")
FOREIGN = ("novel", "speeches")
VOCABULARY = 512
LENGTH = 128


@dataclass(frozen=True)
class Text:
    """``training``, ``calibration`` and ``heldout``: pieces of ``LENGTH`` token ids; no sentence is in two."""

    tokenizer: Any
    training: list[list[int]]
    calibration: list[list[int]]
    heldout: list[list[int]]


def read_text(data: Path) -> Text:
    """The text of ``data``, laid out as examples/zoo/data, and a tokenizer trained on its training part."""
    heldout = _sentences(data / "test")
    calibration = [text for text in _sentences(data / "router") if text not in set(heldout)]
    taken = {*heldout, *calibration}
    training = [text for text in (*_sentences(data / "train"), *_foreign(data)) if text not in taken]
    tokenizer = _tokenizer(training)
    return Text(
        tokenizer,
        *(_pieces(tokenizer, texts) for texts in (training, calibration, heldout)),
    )


def _sentences(folder: Path) -> list[str]:
    found = [
        prompt.partition("\n")[2]
        for task in TASKS
        for prompt in _prompts(folder / f"{task}.jsonl")
    ]
    return list(dict.fromkeys(found))


def _foreign(data: Path) -> list[str]:
    return [prompt for name in FOREIGN for prompt in _prompts(data / "foreign" / f"{name}.jsonl")]


def _prompts(path: Path) -> list[str]:
    return [str(json.loads(line)["prompt"]) for line in path.read_text().splitlines()]


def _tokenizer(texts: Sequence[str]) -> Any:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel()
    raw.decoder = decoders.ByteLevel()
    special = ["<pad>", "<sep>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<sep>", mask_token="<mask>"
    )


def _pieces(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """One stream of all texts, each closed by a separator, cut into whole pieces."""
    stream: list[int] = []
    for ids in tokenizer(list(texts))["input_ids"]:
        stream += [*ids, tokenizer.eos_token_id]
    return [stream[at : at + LENGTH] for at in range(0, len(stream) - LENGTH + 1, LENGTH)]
