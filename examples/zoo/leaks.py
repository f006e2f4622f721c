"""Proof that no prompt stands in two splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

from compress.errors import InputError


def key(prompt: str) -> str:
    """What makes two prompts the same text: all but letter case and white space."""
    return " ".join(prompt.split()).casefold()


def words(prompt: str) -> str:
    """What makes two written sentences the same: letters and digits alone. People repeat themselves with
    other punctuation ("GREAT work!!", "Great work."); in a generated problem a sign is the problem."""
    return " ".join("".join(c if c.isalnum() else " " for c in prompt).split()).casefold()


def require_disjoint(groups: Mapping[str, Iterable[str]]) -> None:
    """Raise `InputError` when a prompt stands in two of the groups, or twice in one of them."""
    owner: dict[str, str] = {}
    for name, prompts in groups.items():
        for prompt in prompts:
            if before := owner.get(key(prompt)):
                where = f"{name} holds" if before == name else f"{name} and {before} share"
                raise InputError(f"{where} the prompt {prompt[:80]!r} twice; remove one of the two")
            owner[key(prompt)] = name


def require_seeds_apart(seeds: Mapping[str, int], drawn: Mapping[str, int]) -> None:
    """Raise `InputError` unless every seed lies further from the next than the items drawn from it.

    reasoning-gym builds item *i* of seed *s* from *s + i*, so closer seeds give the same items.
    """
    ordered = sorted(seeds, key=lambda split: seeds[split])
    for low, high in pairwise(ordered):
        if seeds[low] + drawn[low] > seeds[high]:
            raise InputError(
                f"seeds of {low} ({seeds[low]}) and {high} ({seeds[high]}) lie closer than the "
                f"{drawn[low]} items drawn from the first; move them apart"
            )
