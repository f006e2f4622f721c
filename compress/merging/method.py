"""What a merge method is: a pure function of one parameter of all inputs, with typed settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from compress.errors import InputError
from compress.parameters import Parameter

Scaling = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False, strict=True)]
Density = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False, strict=True)]


class Parameters(BaseModel):
    """Settings of a method in a recipe; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Group:
    """One parameter of all inputs, or a stretch of it.

    ``base``: the pretrained weight W_0, float32, in the parameter's own layout. ``vectors``: task -> task
    vector ``tau_t = W_t - W_0``, shaped like ``base``; inputs that leave the parameter as it is have zeros.
    ``start``: where in the flattened parameter the stretch begins.
    """

    parameter: Parameter
    base: Tensor
    vectors: Mapping[str, Tensor]
    start: int = 0


class Source(Protocol):
    """All inputs of a merge, for methods that must see all parameters before they merge the first."""

    @property
    def tasks(self) -> list[str]: ...

    @property
    def table(self) -> Mapping[str, Parameter]: ...

    def groups(self, name: str) -> Iterator[Group]:
        """One parameter of all inputs, in consecutive stretches."""
        ...

    def vector(self, task: str, name: str) -> Iterator[tuple[int, Tensor]]:
        """One parameter of one task vector: (position of the first element, stretch), in order."""
        ...

    def sha256(self, task: str) -> str:
        """The hash of a fine-tune's weights."""
        ...

    def statistics(self, path: str | None) -> Path:
        """The folder with what was gathered from the fine-tunes' prompts: the one that the recipe names, or
        that of this build. Raises InputError where there is none."""
        ...


Merge = Callable[[Group, Any, Any], Tensor]


@dataclass(frozen=True)
class MergeMethod:
    """One way to make a shared base of fine-tunes.

    ``merge(group, parameters, facts)`` returns the merged parameter, shaped like ``group.base``; it never
    changes its inputs and returns the base where all task vectors are zero. ``facts`` is what ``survey``
    returned, None without one. ``scope`` says whether a matrix may be given in stretches (``element``) or
    must be whole (``tensor``). ``keeps_low_rank``: the merged delta's rank is at most the sum of the task
    vectors' ranks. ``data`` names what must be gathered from the fine-tunes' own prompts first.

    Linear methods, ``W_s = W_0 + sum_t lambda_t tau_t``, give ``coefficients``: their shared base can be
    reached from experts' factors, without another copy of the weights.
    """

    name: str
    title: str
    paper: str
    formula: str
    parameters: type[BaseModel]
    merge: Merge
    scope: Literal["element", "tensor"] = "element"
    keeps_low_rank: bool = False
    data: Literal["grams", "fisher"] | None = None
    needs_base: bool = True
    fewest: int = 1
    survey: Callable[[Source, Any], Any] | None = None
    coefficients: Callable[[Sequence[str], Any], dict[str, float]] | None = None

    def check(self, tasks: Sequence[str], parameters: Any) -> None:
        """Raises InputError where settings do not fit the tasks, before any weight is read."""
        if len(tasks) < self.fewest:
            raise InputError(f"shared.method: {self.name} merges at least {self.fewest} fine-tunes")
        if self.coefficients is not None:
            self.coefficients(tasks, parameters)
        else:
            for key, value in parameters:
                per_task(key, value, tasks)


def per_task(key: str, value: Any, tasks: Sequence[str]) -> dict[str, Any]:
    """A setting for every task: one value for all, or a table that names exactly the tasks.

    Raises InputError for any other table.
    """
    if not isinstance(value, dict):
        return dict.fromkeys(tasks, value)
    if set(value) != set(tasks):
        wrong = sorted(set(value) ^ set(tasks))
        raise InputError(f"shared.{key}: give one value for every task; differs in {', '.join(wrong)}")
    return {task: value[task] for task in tasks}


def add_scaled(base: Tensor, scaled: Iterator[tuple[float, Tensor]]) -> Tensor:
    """``base + sum lambda_t tau_t``; the sum is made first, so that small changes do not round away one
    by one."""
    total: Tensor | None = None
    for scaling, vector in scaled:
        # Not by add_'s alpha, which fuses and so rounds otherwise than other tools do.
        part = vector * scaling
        total = part if total is None else total.add_(part)
    return base.clone() if total is None else total.add_(base)


def linear(
    name: str,
    title: str,
    paper: str,
    formula: str,
    parameters: type[BaseModel],
    coefficients: Callable[[Sequence[str], Any], dict[str, float]],
    *,
    needs_base: bool = True,
    fewest: int = 1,
) -> MergeMethod:
    """``W_s = W_0 + sum_t lambda_t tau_t`` with lambda from ``coefficients(tasks, parameters)``."""

    def merge(group: Group, given: Any, facts: None) -> Tensor:
        scalings = coefficients(list(group.vectors), given)
        return add_scaled(group.base, ((scalings[task], v) for task, v in group.vectors.items()))

    return MergeMethod(
        name,
        title,
        paper,
        formula,
        parameters,
        merge,
        needs_base=needs_base,
        fewest=fewest,
        coefficients=coefficients,
    )
