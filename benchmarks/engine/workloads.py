"""Requests of one workload: prompts, mixtures, lengths and arrivals, all from fixed seeds."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from benchmarks.engine.protocol import Request

Kind = Literal["static", "same", "top1", "top2", "soft", "half"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Lengths = Literal["equal", "mixed"]
Arrivals = Literal["together", "staggered"]

# The grid that twinserve rounds mixtures to, so that all contenders answer with the very same one.
GRID = 64
# Special tokens have the lowest ids in both models.
FIRST_ORDINARY = 64
MIXED_PROMPT, MIXED_NEW = (32, 512), (16, 128)

Mixture = dict[str, float]


def static(tasks: Sequence[str], number: int, random: random.Random) -> Mixture:
    """The merged base for everybody."""
    return {}


def same(tasks: Sequence[str], number: int, random: random.Random) -> Mixture:
    """The first expert for everybody."""
    return {tasks[0]: 1.0}


def top1(tasks: Sequence[str], number: int, random: random.Random) -> Mixture:
    """Each expert for as many requests as the others."""
    return {tasks[number % len(tasks)]: 1.0}


def top2(tasks: Sequence[str], number: int, random: random.Random) -> Mixture:
    """Two experts, in shares that no other request is likely to have."""
    return _shares(random.sample(list(tasks), 2), random)


def soft(tasks: Sequence[str], number: int, random: random.Random) -> Mixture:
    """A part of every expert."""
    return _shares(tasks, random)


def half(tasks: Sequence[str], number: int, random: random.Random) -> Mixture:
    """The merged base for every other request, the experts in turn for the rest."""
    return {} if number % 2 else {tasks[number // 2 % len(tasks)]: 1.0}


MIXTURES: dict[Kind, Callable[[Sequence[str], int, random.Random], Mixture]] = {
    "static": static,
    "same": same,
    "top1": top1,
    "top2": top2,
    "soft": soft,
    "half": half,
}


def _shares(tasks: Sequence[str], random: random.Random) -> Mixture:
    cuts = sorted(random.sample(range(1, GRID), len(tasks) - 1))
    edges = [0, *cuts, GRID]
    return {task: (edges[i + 1] - edges[i]) / GRID for i, task in enumerate(tasks)}


def workload(
    tasks: Sequence[str],
    vocabulary: int,
    *,
    kind: Kind,
    lengths: Lengths = "equal",
    arrivals: Arrivals = "together",
    requests: int = 16,
    prompt: int = 64,
    new_tokens: int = 32,
    gap: float = 0.25,
    seed: int = 0,
) -> list[Request]:
    """``requests`` requests of random tokens. ``prompt`` and ``new_tokens`` are the equal lengths;
    ``gap`` is the mean number of seconds between staggered arrivals (a Poisson process)."""
    # Lengths, arrivals and mixtures each have their own numbers: changing one leaves the others alone.
    tokens, sizes, times, weights = (random.Random(f"{seed} {part}") for part in ("ids", "n", "t", "w"))
    made, now = [], 0.0
    for number in range(requests):
        size = sizes.randint(*MIXED_PROMPT) if lengths == "mixed" else prompt
        new = sizes.randint(*MIXED_NEW) if lengths == "mixed" else new_tokens
        ids = [tokens.randrange(FIRST_ORDINARY, vocabulary) for _ in range(size)]
        made.append(Request(ids, new, MIXTURES[kind](tasks, number, weights), now))
        if arrivals == "staggered":
            now += times.expovariate(1.0 / gap)
    return made
