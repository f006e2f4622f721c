"""A tiny zoo with real skills: one small decoder, four full fine-tunes of it, trained from scratch.

All four tasks share one prompt template, a word and "=", and each has letters of its own: only the
content of a prompt tells which task it is. What each does with the letters differs, so that one
merged model cannot do all four. Training takes some twenty seconds on one core, and the seeds fix it.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from examples.zoo.encoding import Example, collate, encode
from examples.zoo.training import optimiser_step, schedule
from serve.evaluate import Item
from tests import tiny

LETTERS = {"reverse": "abcdef", "sort": "ghijkl", "rotate": "mnopqr", "shift": "stuvwx"}
OPERATIONS: dict[str, Callable[[str], str]] = {
    "reverse": lambda word: word[::-1],
    "sort": lambda word: "".join(sorted(word)),
    "rotate": lambda word: word[1:] + word[0],
    "shift": lambda word: word.translate(str.maketrans("stuvwx", "tuvwxs")),
}
LENGTHS = (3, 4)
BASE_STEPS, TASK_STEPS, BATCH = 150, 160, 32
RATES = {"base": 3e-3, "task": 2e-3}


@dataclass
class TrainedZoo:
    """Folders of the base, of its fine-tunes, and of their data: ``test/<task>.jsonl`` and
    ``router/<task>.jsonl``."""

    base: Path
    finetunes: dict[str, Path]
    data: Path


def words(task: str, split: str) -> Iterator[str]:
    """Endless words of a task; a hash of the word decides its split, so none is in two."""
    generator = random.Random(f"{task} {split}")
    while True:
        word = "".join(generator.choices(LETTERS[task], k=generator.choice(LENGTHS)))
        # Unlike hash(), the same in every process.
        part = random.Random(word).random()
        if ("train" if part < 0.7 else "router" if part < 0.85 else "test") == split:
            yield word


def items(task: str, split: str, count: int) -> list[Item]:
    """``count`` items; in test and router no word twice."""
    found: dict[str, Item] = {}
    for word in words(task, split):
        messages = [{"role": "user", "content": f"{word}="}]
        found[word] = Item(messages, OPERATIONS[task](word))
        if len(found) == count:
            return list(found.values())
    raise AssertionError


def make(folder: Path) -> TrainedZoo:
    """Train base and fine-tunes and write them below ``folder``."""
    tokenizer = tiny.tokenizer()
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(
        tiny.config("llama", hidden_size=64, intermediate_size=128, num_hidden_layers=3, head_dim=16)
    )
    copying = [
        Item([{"role": "user", "content": f"{word}="}], word)
        for task in LETTERS
        for word, _ in zip(words(task, "train"), range(1000), strict=False)
    ]
    fit(base, [encode(item, tokenizer, 64) for item in copying], BASE_STEPS, RATES["base"])
    save(base, folder / "base")
    finetunes = {}
    for task, operation in OPERATIONS.items():
        tuned = copy.deepcopy(base)
        training = [
            Item([{"role": "user", "content": f"{word}="}], operation(word))
            for word, _ in zip(words(task, "train"), range(1000), strict=False)
        ]
        fit(tuned, [encode(item, tokenizer, 64) for item in training], TASK_STEPS, RATES["task"])
        finetunes[task] = save(tuned, folder / task)
    return TrainedZoo(folder / "base", finetunes, write_data(folder / "data"))


def fit(model: Any, examples: list[Example], steps: int, rate: float) -> None:
    """Completion-only training, in place."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    generator = random.Random(0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * schedule(step, steps)
        optimiser_step(model, collate(generator.sample(examples, BATCH), 0), optimizer)
    model.eval()


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def write_data(folder: Path) -> Path:
    """Test items and router prompts as the product reads them."""
    for split in ("test", "router"):
        (folder / split).mkdir(parents=True)
        for task in OPERATIONS:
            lines = ({"messages": i.messages, "answer": i.answer} for i in items(task, split, 60))
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / split / f"{task}.jsonl").write_text(text)
    return folder
