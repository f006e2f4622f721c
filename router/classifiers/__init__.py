"""Scaled features to a score for each task, in one of several ways, each kept as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from router.features import Matrix

Array = np.ndarray
ClassifierKind = Literal["logistic", "mlp", "prototypes", "dataless"]
# Those that learn from labels.
CLASSIFIER_KINDS: tuple[ClassifierKind, ...] = ("logistic", "mlp", "prototypes")


class Classifier(Protocol):
    """kind names it in router.json; ``arrays`` are all it knows."""

    kind: ClassVar[ClassifierKind]

    @classmethod
    def fit(cls, x: Matrix, labels: Array, tasks: int, seed: int) -> Classifier:
        """From scaled features [n, d] and labels [n] in 0..tasks-1, every one of which occurs."""
        ...

    def logits(self, x: Matrix) -> Array:
        """Scores [n, tasks] before the temperature, float64."""
        ...

    def arrays(self) -> dict[str, Array]:
        """What ``of`` makes an equal classifier from."""
        ...

    @classmethod
    def of(cls, arrays: Mapping[str, Array], tasks: int) -> Classifier:
        """Raises ValueError, naming the array, for arrays that do not fit each other or ``tasks``."""
        ...


def classifier_class(kind: ClassifierKind) -> Any:
    """The class of a kind."""
    from router.classifiers.dataless import Dataless
    from router.classifiers.logistic import Logistic
    from router.classifiers.mlp import Perceptron
    from router.classifiers.prototypes import Prototypes

    classes = (Logistic, Perceptron, Prototypes, Dataless)
    return {found.kind: found for found in classes}[kind]


def checked(arrays: Mapping[str, Array], **shapes: tuple[int | None, ...]) -> list[Array]:
    """The named arrays, of these shapes (None: any size), float32 and finite. Raises ValueError."""
    found = []
    for name, shape in shapes.items():
        array = arrays.get(name)
        if array is None:
            raise ValueError(f"{name} is missing")
        fits = array.ndim == len(shape) and all(
            want in (None, have) for want, have in zip(shape, array.shape, strict=True)
        )
        if not fits or array.dtype != np.float32:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise ValueError(f"{name} is {array.dtype} {array.shape} instead of float32 ({wanted})")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds unusable numbers")
        found.append(array)
    return found
