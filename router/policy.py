"""Probabilities to a mixture: which experts answer, and when none of them should."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nlargest
from operator import itemgetter
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from compress.compose import BASE


class Policy(BaseModel):
    """How many experts answer, and how much of them.

    threshold: least probability of the best task; below it no expert is trusted.
    top_k: experts that may be blended. certain: probability of the best task from which on it answers
    alone all the same, for blending costs accuracy wherever the router is right.
    temperature: of the blend, weights being proportional to ``p ** (1 / temperature)``: below 1 it
    leans to the best, 1 takes probabilities as they are.
    total: what the weights sum to, at most 1; the rest is the shared base's.
    fallback: what answers where no expert is trusted: the shared base, or the pretrained one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(0.5, ge=0, le=1)
    top_k: int = Field(1, ge=1)
    certain: float = Field(0.9, ge=0, le=1)
    temperature: float = Field(0.5, gt=0, le=10, allow_inf_nan=False)
    total: float = Field(1.0, gt=0, le=1)
    fallback: Literal["shared", "base"] = "shared"

    def mixture(self, probabilities: Mapping[str, float], known: bool) -> dict[str, float]:
        """Task weights that sum to ``total``, or what ``fallback`` says: {} (the null slot: the shared base
        answers) or all weight on the pretrained base.

        That is for a prompt unlike all training prompts (``known`` is false) and for one on which the
        router is unsure. A single task gets all the weight: a confidence is not a
        weight.
        """
        nobody: dict[str, float] = {BASE: 1.0} if self.fallback == BASE else {}
        if not known or not probabilities:
            return nobody
        if self.top_k == 1:
            task = max(probabilities, key=probabilities.__getitem__)
            best = [(task, probabilities[task])]
        else:
            best = nlargest(self.top_k, probabilities.items(), key=itemgetter(1))
        if best[0][1] < self.threshold:
            return nobody
        if best[0][1] >= self.certain:
            best = best[:1]
        # Relative to the best, so that no power underflows where all probabilities are small.
        powers = {task: (p / best[0][1]) ** (1 / self.temperature) for task, p in best if p > 0}
        scale = self.total / sum(powers.values())
        return {task: power * scale for task, power in powers.items() if power > 0}
