"""Training and held-out examples of a run: the zoo's own, or a user's file."""

from __future__ import annotations

import difflib
import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compress.errors import InputError
from examples.zoo.encoding import Example, read_examples
from examples.zoo.make_data import DATA
from examples.zoo.tasks import TASKS
from serve.evaluate import Item

# Of a user's file, this share is held out; fewer lines than that teach nothing and prove less.
HELD_OUT, FEWEST = 0.15, 50


@dataclass(frozen=True)
class Split:
    """What is trained on and what is scored on; no prompt is in both. ``repeated``: lines left out
    because their prompt stands in an earlier one."""

    training: list[Example]
    held_out: list[Example]
    repeated: int

    def sha256(self) -> str:
        """Hash of the training items, in order."""
        return items_sha256([example.item for example in self.training])


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
    lines = read_examples(data, tokenizer, context)
    training = _distinct(lines)
    if len(training) < FEWEST:
        raise InputError(
            f"{data}: {len(training)} different prompts are too few to learn a task and to measure it; "
            f"give at least {FEWEST}, better a thousand"
        )
    repeated = len(lines) - len(training)
    if test is None:
        random.Random(0).shuffle(training)
        cut = round(HELD_OUT * len(training))
        return Split(training[cut:], training[:cut], repeated)
    held_out = _distinct(read_examples(test, tokenizer, context))
    known = set(map(_prompt, training))
    for example in held_out:
        if _prompt(example) in known:
            raise InputError(
                f"{data} and {test} share the prompt {example.item.messages[-1]['content'][:80]!r}; "
                "remove it from one of them"
            )
    return Split(training, held_out, repeated)


def items_sha256(items: Iterable[Item]) -> str:
    """Hash of prompts and answers, in order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update((json.dumps(asdict(item), sort_keys=True) + "\n").encode())
    return digest.hexdigest()


def _distinct(examples: Sequence[Example]) -> list[Example]:
    """The first example of every prompt: a repeated one could fall into both parts."""
    return list({_prompt(example): example for example in reversed(examples)}.values())[::-1]


def _prompt(example: Example) -> str:
    """The whole conversation: a user's turn alone may be the same everywhere ("Summarise.")."""
    return json.dumps(example.item.messages, sort_keys=True)
