"""The router as one object: prompts in, probabilities and a mixture out; its two files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import nn

from compress.errors import InputError
from router.calibration import NEIGHBOURS, Novelty
from router.classifier import Classifier
from router.settings import RouterSettings
from router.text import routing_tokens

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Route:
    """Where one prompt goes.

    probabilities: of every task, summing to 1; confidence: the largest of them.
    known: whether the prompt is like those of some task. mixture: task weights, {} = shared base.
    """

    probabilities: dict[str, float]
    confidence: float
    known: bool
    mixture: dict[str, float]


@dataclass(frozen=True)
class Router:
    """A trained router; ``settings.layer`` is the number of layers it was trained on, never None.

    report holds what was measured on held-out prompts, as ``router.train`` describes it.
    """

    tasks: tuple[str, ...]
    settings: RouterSettings
    classifier: Classifier
    novelty: Novelty
    report: Mapping[str, Any] = field(default_factory=dict)

    def encode(self, tokenizer: Any, text: str) -> list[int]:
        """Token ids of a routing text as ``route`` wants them: no more than the router looks at."""
        return routing_tokens(tokenizer, text)[-self.settings.max_tokens :]

    def route(self, model: nn.Module, batch: Sequence[Sequence[int]]) -> list[Route]:
        """Score token id lists with ``model``, the one that the router was trained on.

        An empty list, a conversation without a user's word, is unknown: all tasks are equally
        likely and the shared base answers. Raises InputError for a model of another shape.
        """
        told = [index for index, row in enumerate(batch) if row]
        features = self.settings.features().extract(model, [batch[index] for index in told])
        width = len(self.classifier.mean)
        if features.shape[1] != width:
            raise InputError(
                f"the router was trained on hidden states of size {width}, this model's have "
                f"{features.shape[1]}: train a router for this model"
            )
        probabilities = np.full((len(batch), len(self.tasks)), 1 / len(self.tasks))
        probabilities[told] = self.classifier.probabilities(features)
        known = np.zeros(len(batch), dtype=bool)
        known[told] = self.novelty.known(features / self.classifier.scale)
        return [self._route(*row) for row in zip(probabilities, known.tolist(), strict=True)]

    def _route(self, row: np.ndarray, known: bool) -> Route:
        probabilities = dict(zip(self.tasks, row.tolist(), strict=True))
        mixture = self.settings.policy().mixture(probabilities, known)
        return Route(probabilities, max(probabilities.values()), known, mixture)

    def save(self, folder: Path) -> None:
        """Write router.json and router.safetensors into ``folder``, which is made if missing."""
        head = _Head(
            schema_version=SCHEMA_VERSION,
            tasks=list(self.tasks),
            settings=self.settings,
            temperature=self.classifier.temperature,
            distance_threshold=self.novelty.threshold,
            report=dict(self.report),
        )
        arrays = {
            "mean": self.classifier.mean,
            "scale": self.classifier.scale,
            "coef": self.classifier.coef,
            "intercept": self.classifier.intercept,
            "references": self.novelty.references,
        }
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / "router.safetensors", save(arrays))
        _replace(folder / "router.json", (head.model_dump_json(indent=2) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> Router:
        """Read what ``save`` wrote. InputError if files are missing, damaged or of another version."""
        head = _read_head(folder / "router.json")
        arrays = _read_arrays(folder / "router.safetensors", len(head.tasks))
        classifier = Classifier(
            arrays["mean"],
            arrays["scale"],
            arrays["coef"],
            arrays["intercept"],
            head.temperature,
        )
        novelty = Novelty(arrays["references"], head.distance_threshold)
        return cls(tuple(head.tasks), head.settings, classifier, novelty, head.report)


class _Head(BaseModel):
    """router.json."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int
    tasks: list[str] = Field(min_length=1)
    settings: RouterSettings
    temperature: float = Field(gt=0, allow_inf_nan=False)
    distance_threshold: float = Field(ge=0, allow_inf_nan=False)
    report: dict[str, Any]


def _replace(path: Path, content: bytes) -> None:
    # The old file may be a hard link shared with another bundle: it must not be written into.
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def _read_head(path: Path) -> _Head:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}): train the router again") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema_version {version!r} is not supported, only {SCHEMA_VERSION}: "
            "train the router again with this version of twinserve"
        )
    try:
        head = _Head.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {where}: {first['msg']}: train the router again") from error
    if len(set(head.tasks)) != len(head.tasks):
        raise InputError(f"{path}: tasks: a task is named twice: train the router again")
    if head.settings.layer is None:
        raise InputError(f"{path}: settings.layer: a number is needed: train the router again")
    return head


def _read_arrays(path: Path, tasks: int) -> dict[str, np.ndarray]:
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{path}: cannot be read ({error}): train the router again") from error
    width = math.prod(arrays["mean"].shape) if "mean" in arrays else 0
    references = len(arrays["references"]) if "references" in arrays else 0
    shapes = {
        "mean": (width,),
        "scale": (width,),
        "coef": (tasks, width),
        "intercept": (tasks,),
        "references": (max(references, NEIGHBOURS), width),
    }
    if set(arrays) != set(shapes):
        raise InputError(
            f"{path}: holds {sorted(arrays)} instead of {sorted(shapes)}: train the router again"
        )
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != np.float32:
            raise InputError(
                f"{path}: {name} is {array.dtype} {array.shape} instead of float32 {shape}: "
                "train the router again"
            )
        if not np.isfinite(array).all() or (name == "scale" and not (array > 0).all()):
            raise InputError(f"{path}: {name} holds unusable numbers: train the router again")
    return arrays
