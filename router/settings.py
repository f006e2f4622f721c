"""What can be chosen about a router."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from router.features import HiddenStateFeatures
from router.policy import Policy


class RouterSettings(BaseModel):
    """Every setting has a default that works; unknown keys are refused.

    layer, pooling, max_tokens: see HiddenStateFeatures.
    top_k, threshold:           see Policy.
    false_rejection:            share of prompts that do belong to a task which may be sent to the
                                shared base by mistake (0 to below 1).
    seed:                       decides which prompts train, which calibrate and which test.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: int | None = Field(None, ge=1)
    pooling: Literal["mean", "last"] = "mean"
    max_tokens: int = Field(256, ge=1)
    top_k: int = Field(1, ge=1)
    threshold: float = Field(0.5, ge=0, le=1)
    false_rejection: float = Field(0.02, ge=0, lt=1)
    seed: int = Field(0, ge=0)

    def features(self) -> HiddenStateFeatures:
        return HiddenStateFeatures(layer=self.layer, pooling=self.pooling, max_tokens=self.max_tokens)

    def policy(self) -> Policy:
        return Policy(top_k=self.top_k, threshold=self.threshold)


class RouterRecipe(RouterSettings):
    """The router section of a recipe: the settings, and the prompts labelled by task: one JSONL file, or
    a folder with a file a task."""

    prompts: str

    def settings(self) -> RouterSettings:
        return RouterSettings(**self.model_dump(exclude={"prompts"}))
