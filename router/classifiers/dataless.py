"""Features that are scores already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from router.classifiers import Array, ClassifierKind
from router.features import Matrix


@dataclass(frozen=True)
class Dataless:
    """Logits are the features, one a task."""

    kind: ClassVar[ClassifierKind] = "dataless"

    @classmethod
    def fit(cls, x: Matrix, labels: Array, tasks: int, seed: int) -> Dataless:
        return cls()

    def logits(self, x: Matrix) -> Array:
        return np.asarray(x, dtype=np.float64)

    def arrays(self) -> dict[str, Array]:
        return {}

    @classmethod
    def of(cls, arrays: Mapping[str, Array], tasks: int) -> Dataless:
        return cls()
