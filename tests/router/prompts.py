"""Labelled prompts that a tiny model can tell apart: each task has its own alphabet."""

from __future__ import annotations

import random
from collections.abc import Sequence

from router import Prompt
from router.query import Query, Turn
from tests import tiny

# No letter belongs to two tasks in another case, for hashed n-grams see none.
ALPHABETS = {"counting": "0123456789", "shouting": "ABCDEFGH", "talking": "jklmnopq"}
TASKS = list(ALPHABETS)


def prompts(tasks: Sequence[str], count: int, seed: int = 0) -> list[Prompt]:
    """``count`` distinct prompts of 8 to 24 characters for each of ``tasks``."""
    made = []
    for task in tasks:
        # Seeded by a string, for hash() of one differs between runs.
        source = random.Random(f"{seed} {task}")
        texts: dict[str, None] = {}
        while len(texts) < count:
            length = source.randint(8, 24)
            texts["".join(source.choices(ALPHABETS[task], k=length))] = None
        made += [Prompt(task, text) for text in texts]
    return made


def turn(text: str) -> Turn:
    """A turn as the router would see it, with the tiny tokenizer's ids."""
    return Turn(text, tuple(tiny.tokenizer()(text)["input_ids"]))


def queries(texts: Sequence[str]) -> list[Query]:
    """Conversations of a single turn."""
    return [Query((turn(text),)) for text in texts]
