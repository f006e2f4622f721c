"""What can be chosen about a router."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from compress.compose import BASE
from compress.errors import InputError
from router.classifiers import CLASSIFIER_KINDS, ClassifierKind
from router.features import FeatureKind, Features, Pooling
from router.policy import Policy


class RouterSettings(BaseModel):
    """Every setting has a default that works; unknown keys are refused.

    features, classifiers:     which are compared in training (one name or several); the trained router
                               has one of each.
    layer, pooling:            see HiddenStateFeatures. encoder: see SentenceFeatures.
    max_tokens:                of a longer turn, only its first and last tokens are seen, this many.
    history:                   weight of a user's turn relative to the one after it, 0 to 1; 0 routes by
                               the last turn alone.
    sticky:                    by how much another task must be more probable than the one that answered
                               the turn before, 0 to 1; above 0, a turn like no task's does not end a
                               conversation with an expert either.
    top_k, threshold, certain, temperature, total: see Policy.
    fallback:                  what answers where no expert is trusted: the shared base, or the pretrained
                               "base"; "auto" is the pretrained one where the bundle has it.
    false_rejection:           share of prompts that do belong to a task which may be sent to the
                               shared base by mistake (0 to below 1).
    seed:                      decides which prompts train and which test.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    features: tuple[FeatureKind, ...] = Field(default=("embedding", "tfidf", "hidden"), min_length=1)
    classifiers: tuple[ClassifierKind, ...] = Field(default=CLASSIFIER_KINDS, min_length=1)
    layer: int | None = Field(default=None, ge=1)
    pooling: Pooling = "mean"
    encoder: str | None = None
    max_tokens: int = Field(default=256, ge=2)
    history: float = Field(default=0.5, ge=0, le=1)
    sticky: float = Field(default=0.0, ge=0, le=1)
    threshold: float = Policy.model_fields["threshold"].default
    top_k: int = Policy.model_fields["top_k"].default
    certain: float = Policy.model_fields["certain"].default
    temperature: float = Policy.model_fields["temperature"].default
    total: float = Policy.model_fields["total"].default
    fallback: Literal["auto", "shared", "base"] = "auto"
    false_rejection: float = Field(default=0.015, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)

    @field_validator("features", "classifiers", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else tuple(dict.fromkeys(value))

    @model_validator(mode="after")
    def _complete(self) -> RouterSettings:
        dataless = (self.features == ("projection",), self.classifiers == ("dataless",))
        if any(dataless) and not all(dataless):
            raise ValueError("projection features and the dataless classifier need each other, and no other")
        if "projection" in self.features and not any(dataless):
            raise ValueError("projection features come alone: train without prompts to get them")
        if "sentence" in self.features and not self.encoder:
            raise ValueError("features 'sentence' need an encoder: a folder or hub id of one")
        self.policy()
        return self

    def extractor(self, kind: FeatureKind) -> Features:
        """The features of one kind, as set here; those of the experts' factors are the router's own."""
        from router.features.embedding import EmbeddingFeatures
        from router.features.hidden import HiddenStateFeatures
        from router.features.sentence import SentenceFeatures
        from router.features.tfidf import TfidfFeatures

        if kind == "hidden":
            return HiddenStateFeatures(layer=self.layer, pooling=self.pooling)
        if kind == "sentence":
            assert self.encoder is not None
            return SentenceFeatures(self.encoder)
        assert kind != "projection"
        return EmbeddingFeatures() if kind == "embedding" else TfidfFeatures()

    def compared(self, width: int) -> int | None:
        """How many leading features of ``width`` tell known prompts from unknown, None = all of them.

        Where last tokens stand beside means, the means: a task's prompts may end in anything, so that by
        their last tokens texts of no task are as near to them as they are to each other.
        """
        return width // 2 if self.features == ("hidden",) and self.pooling == "both" else None

    def settled(self, pretrained: bool) -> RouterSettings:
        """These settings for a bundle that has the pretrained base, or has not. Raises InputError where they
        ask for what it has not."""
        if self.fallback == BASE and not pretrained:
            raise InputError(
                "router.fallback: base: this bundle's base is the merge of its fine-tunes, and the "
                "pretrained one is not in it; build with exclusive.reference: pretrained, or fall back to "
                "shared"
            )
        fallback = self.fallback if self.fallback != "auto" else BASE if pretrained else "shared"
        return self.model_copy(update={"fallback": fallback})

    def policy(self) -> Policy:
        """Unsettled, it falls back to the shared base, which every bundle has."""
        values = {name: getattr(self, name) for name in Policy.model_fields}
        return Policy(**values | {"fallback": BASE if self.fallback == BASE else "shared"})


class RouterRecipe(RouterSettings):
    """The router section of a recipe: the settings, and the prompts labelled by task: one JSONL file, or
    a folder with a file a task. Without prompts the router is made of the experts' factors."""

    prompts: str | None = None

    def settings(self) -> RouterSettings:
        return RouterSettings(**self.model_dump(exclude={"prompts"}))
