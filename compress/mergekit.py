"""Recipes written for mergekit: those of the methods that both know become recipes of ours.

mergekit's names are kept apart from ours: its ``linear`` is our ``average``, its ``ties`` our
``ties_per_tensor``. What a recipe asks for and we would do otherwise is refused by name.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from compress.errors import InputError
from compress.recipe import Dtype, Recipe, validation_sentence


class Settings(BaseModel):
    """Parameters of a method or of one model; mergekit's filters and gradients are not read."""

    model_config = ConfigDict(extra="forbid", strict=True)
    weight: FiniteFloat | None = None
    density: FiniteFloat | None = None
    normalize: bool | None = None
    lambda_: FiniteFloat | None = Field(default=None, alias="lambda")
    int8_mask: bool | None = None  # how mergekit stores signs; the result is the same


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model: str
    parameters: Settings = Field(default_factory=lambda: Settings.model_validate({}))


class MergekitRecipe(BaseModel):
    """What of a mergekit YAML is understood."""

    model_config = ConfigDict(extra="forbid")
    merge_method: Literal["linear", "task_arithmetic", "ties"]
    models: list[Model] = Field(min_length=1)
    base_model: str | None = None
    parameters: Settings = Field(default_factory=lambda: Settings.model_validate({}))
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    tokenizer_source: Literal["base"] | None = None


def from_mergekit(content: dict[str, Any], path: Path) -> Recipe:
    """The recipe that makes the tensors of a mergekit YAML, computed in float32.

    Raises InputError for methods and settings that only mergekit knows.
    """
    try:
        theirs = MergekitRecipe.model_validate(content)
    except ValidationError as error:
        raise InputError(
            f"{path}: of mergekit's recipes, linear, task_arithmetic and ties with plain numbers are read; "
            f"{validation_sentence(error, MergekitRecipe)}"
        ) from error
    models = [entry for entry in theirs.models if entry.model != theirs.base_model]
    if not models:
        raise InputError(f"{path}: models: there is none beside base_model")
    if theirs.base_model is None and theirs.merge_method != "linear":
        raise InputError(f"{path}: {theirs.merge_method} needs base_model")
    if theirs.base_model is not None and theirs.merge_method == "linear":
        models = theirs.models
    names = _task_names([entry.model for entry in models])
    settings = dict(
        zip(names, (_merged(entry.parameters, theirs.parameters) for entry in models), strict=True)
    )
    content = {
        "base": theirs.base_model or models[0].model,
        "experts": [
            {"task": name, "checkpoint": entry.model} for name, entry in zip(names, models, strict=True)
        ],
        "shared": _shared(theirs, settings, path),
        "output": {"dtype": theirs.out_dtype or theirs.dtype or "float32"},
    }
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {validation_sentence(error, Recipe)}") from error


def _shared(theirs: MergekitRecipe, settings: dict[str, Settings], path: Path) -> dict[str, Any]:
    weights = {name: own.weight for name, own in settings.items()}
    missing = [name for name, weight in weights.items() if weight is None]
    if missing:
        raise InputError(f"{path}: models: {missing[0]} has no weight")
    numbers: dict[str, float] = {name: weight for name, weight in weights.items() if weight is not None}
    total, method = sum(numbers.values()), theirs.merge_method
    default = method != "task_arithmetic"
    normalize = default if theirs.parameters.normalize is None else theirs.parameters.normalize
    scale = 1.0 if theirs.parameters.lambda_ is None else theirs.parameters.lambda_
    if method == "linear":
        if not normalize and abs(total - 1) > 1e-6:
            raise InputError(
                f"{path}: linear without normalize, whose weights sum to {total:g}, scales the base itself; "
                "use normalize: true"
            )
        return {"method": "average", "weight": numbers}
    if method == "task_arithmetic":
        divisor = total if normalize and abs(total) >= 1e-8 else 1.0
        return {
            "method": "task_arithmetic",
            "scaling": {name: scale * weight / divisor for name, weight in numbers.items()},
        }
    return {
        "method": "ties_per_tensor",
        "weight": numbers,
        "density": {name: 1.0 if s.density is None else s.density for name, s in settings.items()},
        "scaling": scale,
        "normalize": normalize,
    }


def _merged(own: Settings, common: Settings) -> Settings:
    return common.model_copy(update=own.model_dump(exclude_none=True))


def _task_names(models: list[str]) -> list[str]:
    """The last part of each model's path, numbered where two are alike."""
    plain = ["".join(c if c.isalnum() or c in "_.-" else "-" for c in PurePath(m).name)[:60] for m in models]
    seen: Counter[str] = Counter()
    names = []
    for name in plain:
        seen[name] += 1
        names.append(f"{name}-{seen[name]}" if plain.count(name) > 1 else name)
    return names
