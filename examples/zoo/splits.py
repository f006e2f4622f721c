"""Training and held-out examples of a run: the zoo's own, or a user's file."""

from __future__ import annotations

import difflib
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import InputError
from examples.zoo.encoding import Example, read_examples
from examples.zoo.leaks import key, require_disjoint
from examples.zoo.make_data import DATA
from examples.zoo.tasks import TASKS
from router.text import routing_text

# Of a user's file, this share is held out; fewer lines than that teach nothing and prove less.
HELD_OUT, FEWEST = 0.15, 50


@dataclass(frozen=True)
class Split:
    """What is trained on and what is scored on; no prompt is in both."""

    training: list[Example]
    held_out: list[Example]

    def sha256(self) -> str:
        """Hash of the training examples' tokens, in order."""
        digest = hashlib.sha256()
        for example in self.training:
            digest.update(f"{example.prompt}{example.answer}\n".encode())
        return digest.hexdigest()


def split(task: str, data: Path | None, test: Path | None, tokenizer: Any, context: int) -> Split:
    """The zoo's files for ``task``, or ``data`` with ``test``; without ``test`` 15 % are held out.

    Raises InputError for an unknown task, bad or too few lines, and a prompt in both parts.
    """
    if data is None:
        if task not in TASKS:
            near = difflib.get_close_matches(task, TASKS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(TASKS)}"
            raise InputError(f"task {task!r} is none of the zoo's ({hint}); for your own, give --data FILE")
        data, test = DATA / "train" / f"{task}.jsonl", DATA / "test" / f"{task}.jsonl"
    training = _distinct(read_examples(data, tokenizer, context))
    if len(training) < FEWEST:
        raise InputError(
            f"{data}: {len(training)} different prompts are too few to learn a task and to hold some out; "
            f"give at least {FEWEST}, better a thousand"
        )
    if test is None:
        random.Random(0).shuffle(training)
        cut = round(HELD_OUT * len(training))
        return Split(training[cut:], training[:cut])
    held_out = _distinct(read_examples(test, tokenizer, context))
    require_disjoint({str(data): map(_text, training), str(test): map(_text, held_out)})
    return Split(training, held_out)


def _distinct(examples: Sequence[Example]) -> list[Example]:
    """The first example of every prompt: a repeated one could fall into both parts."""
    return list({key(_text(example)): example for example in reversed(examples)}.values())[::-1]


def _text(example: Example) -> str:
    return routing_text(example.item.messages)
