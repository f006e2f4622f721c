"""Probabilities to a mixture: which experts answer, and when none of them should."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field


class Policy(BaseModel):
    """``top_k`` experts are blended if the best one reaches the probability ``threshold``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    top_k: int = Field(1, ge=1)
    threshold: float = Field(0.5, ge=0, le=1)

    def mixture(self, probabilities: Mapping[str, float], known: bool) -> dict[str, float]:
        """Task weights that sum to 1, or {} (the null slot: the shared base answers).

        The null slot is taken for a prompt unlike all training prompts (``known`` is false) and
        for one on which the router is unsure. With ``top_k`` 1 the best task gets weight 1: a
        confidence is not a weight. With more, the ``top_k`` best probabilities are renormalised.
        """
        best = sorted(probabilities.items(), key=lambda item: -item[1])[: self.top_k]
        if not known or not best or best[0][1] < self.threshold:
            return {}
        total = sum(probability for _, probability in best)
        return {task: probability / total for task, probability in best if probability > 0}
