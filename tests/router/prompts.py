"""Labelled prompts that a tiny model can tell apart: each task has its own alphabet."""

from __future__ import annotations

import random

from router import Prompt

ALPHABETS = {"counting": "0123456789", "shouting": "ABCDEFGH", "talking": "abcdefgh"}


def prompts(tasks: list[str], count: int, seed: int = 0) -> list[Prompt]:
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
