"""What to build: the YAML recipe, checked before any weight is read."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compress.errors import InputError
from compress.merging import METHODS, MergeMethod
from compress.yamlfile import read_mapping

# "shared" is how a bundle carries a merge that its experts' factors cannot express.
SHARED = "shared"
RESERVED = {"static", "dynamic", "base", SHARED}
Dtype = Literal["float32", "float16", "bfloat16"]
TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Strict(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class ExpertRecipe(Strict):
    """One fine-tune: a full checkpoint or a PEFT adapter (folder, .gguf file or hub id)."""

    task: str
    checkpoint: str

    @model_validator(mode="after")
    def _name(self) -> ExpertRecipe:
        if self.task in RESERVED or not TASK_NAME.fullmatch(self.task):
            raise ValueError(
                f"task name {self.task!r} cannot be used: letters, digits, '_', '.', '-', "
                f"and none of {', '.join(sorted(RESERVED))}"
            )
        return self


class SharedRecipe(BaseModel):
    """How the shared base is merged; further keys are the method's own parameters."""

    model_config = ConfigDict(extra="allow")
    method: str = "task_arithmetic"

    @property
    def merging(self) -> MergeMethod:
        """The method itself."""
        return METHODS[self.method]

    @property
    def parameters(self) -> Any:
        """The method's settings, checked."""
        return self.merging.parameters(**(self.model_extra or {}))

    def coefficients(self, tasks: list[str]) -> dict[str, float] | None:
        """lambda_t of every task; None where the method is not linear."""
        linear = self.merging.coefficients
        return None if linear is None else linear(tasks, self.parameters)

    @model_validator(mode="after")
    def _parameters(self) -> SharedRecipe:
        if self.method not in METHODS:
            near = difflib.get_close_matches(self.method, METHODS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(METHODS)}"
            raise ValueError(f"method {self.method!r} is unknown; {hint}")
        parameters = METHODS[self.method].parameters
        try:
            parameters(**(self.model_extra or {}))
        except ValidationError as error:
            raise ValueError(validation_sentence(error, parameters)) from error
        return self


class ExclusiveRecipe(Strict):
    """How far exclusive deltas are compressed: to a rank, a kept energy, or a size.

    ``size`` is that of base and experts together: ``1.2x`` of the base's parameters at two bytes each, or
    ``300MB``; a merge carried beside adapters comes on top. ``dtype`` is that of the factors, by default the
    output's; ``int8`` and ``mixed`` (8, 4 and 2 bits by singular value, which needs a size) are quantised.
    ``reference`` is the model that experts are deltas of. ``auto``: the pretrained base as soon as one input
    is an adapter, else the one with the smaller measured error. ``adapters``: ``exact`` carries them byte for
    byte; ``compressed`` treats them as it does deltas of full checkpoints.
    """

    rank: int | None = Field(None, ge=0)
    energy: float | None = Field(None, gt=0, le=1)
    size: str | None = Field(None, pattern=r"^\d+(\.\d+)?(x|B|KB|MB|GB)$")
    reference: Literal["auto", "shared", "pretrained"] = "auto"
    dtype: Dtype | Literal["int8", "mixed"] | None = None
    adapters: Literal["exact", "compressed"] = "exact"

    @model_validator(mode="after")
    def _one(self) -> ExclusiveRecipe:
        if sum(value is not None for value in (self.rank, self.energy, self.size)) != 1:
            raise ValueError("give either rank or energy or size")
        if self.dtype == "mixed" and self.size is None:
            raise ValueError("dtype mixed shares out a size; give size, as in size: 1.2x")
        if self.dtype == "float32" and self.size is not None:
            raise ValueError("a size needs factors of two bytes or fewer; give dtype float16, int8 or mixed")
        return self

    def bytes(self, parameters: int) -> int | None:
        """``size`` in bytes, for a base of so many parameters."""
        if self.size is None:
            return None
        number, unit = re.fullmatch(r"([\d.]+)(\w+)", self.size).groups()  # type: ignore[union-attr]
        scale = {"x": 2 * parameters, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}[unit]
        return int(float(number) * scale)


def float_dtype(exclusive: ExclusiveRecipe, output: str) -> torch.dtype:
    """The type of factors that are not quantised."""
    chosen = exclusive.dtype
    found: torch.dtype = getattr(torch, output if chosen in (None, "int8", "mixed") else str(chosen))
    return found


class OutputRecipe(Strict):
    """How the base's tensors are stored, and factors where ``exclusive.dtype`` says nothing else."""

    dtype: Dtype = "float32"


class Recipe(Strict):
    """The whole recipe. ``router`` is checked by the router package, which owns its settings."""

    base: str
    experts: list[ExpertRecipe] = Field(min_length=1)
    shared: SharedRecipe = SharedRecipe()
    exclusive: ExclusiveRecipe = ExclusiveRecipe(rank=16, energy=None, size=None)
    router: dict[str, Any] | None = None
    output: OutputRecipe = OutputRecipe()

    @model_validator(mode="after")
    def _distinct(self) -> Recipe:
        tasks = self.tasks
        for task in tasks:
            if tasks.count(task) > 1:
                raise ValueError(f"task {task!r} is given twice")
        self.shared.merging.check(tasks, self.shared.parameters)
        return self

    @property
    def tasks(self) -> list[str]:
        return [expert.task for expert in self.experts]

    @property
    def sources(self) -> list[str]:
        """The base and all checkpoints, as they are named."""
        return [self.base, *(expert.checkpoint for expert in self.experts)]


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file, ours or mergekit's. Raises InputError: one sentence that names file and
    key."""
    content = read_mapping(path, "recipe", list(Recipe.model_fields))
    if "merge_method" in content:
        from compress.mergekit import from_mergekit

        return from_mergekit(content, path)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {validation_sentence(error, Recipe)}") from error


def validation_sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a pydantic error as one sentence; unknown keys name the nearest known key."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        key, known = str(first["loc"][-1]), _keys_at(model, first["loc"][:-1])
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {where!r}; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        annotation = current.model_fields[part].annotation if part in current.model_fields else None
        inner = [annotation, *getattr(annotation, "__args__", ())]
        models = [a for a in inner if isinstance(a, type) and issubclass(a, BaseModel)]
        if not models:
            return []
        current = models[0]
    return list(current.model_fields)
