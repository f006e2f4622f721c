"""How task vectors lie to each other: signed cosines, sign conflicts and energies, in one pass over them.

Kinship is the cosine of two task vectors (Hu et al. 2024, "Exploring Model Kinship for Merging Large Language
Models", arXiv:2410.12613). It keeps its sign: opposite fine-tunes are not kindred. Sign conflict is what TIES
elects away (Yadav et al. 2023, arXiv:2306.01708).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compress.checkpoints import Checkpoint
from compress.finetunes import Finetune, task_vector
from compress.parallel import each
from compress.parameters import Kind, Parameter
from compress.progress import Progress
from compress.tensorfiles import stretches

# Elements of every vector that are multiplied at once: in float64 they stay in the processor's caches, and
# counts of them are exact in float32.
CHUNK = 1 << 16
OUTSIDE = "outside"
# One parameter of all fine-tunes, in consecutive stretches; None where a vector is zero.
Read = Callable[[str], Iterable[Sequence[Tensor | None]]]


@dataclass(frozen=True)
class Overlap:
    """Sums over elements for every pair of K vectors, each float64 [K, K].

    ``dot``: of tau_s tau_t. ``mass``: of |tau_s tau_t|. ``signs``: of sign(tau_s tau_t). ``both``: how many
    elements are zero in neither.
    """

    dot: np.ndarray
    mass: np.ndarray
    signs: np.ndarray
    both: np.ndarray

    @classmethod
    def zero(cls, count: int) -> Overlap:
        return cls(*np.zeros((4, count, count)))

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.dot + other.dot, self.mass + other.mass, self.signs + other.signs, self.both + other.both
        )

    def first(self, count: int) -> Overlap:
        """Of the first ``count`` vectors alone."""
        return Overlap(*(sums[:count, :count] for sums in (self.dot, self.mass, self.signs, self.both)))

    @property
    def energy(self) -> np.ndarray:
        """Squared Frobenius norms [K]."""
        return np.diagonal(self.dot)

    def cosine(self) -> np.ndarray:
        """Signed cosines [K, K] in [-1, 1]; 0 with a vector that is zero, itself too."""
        norms = np.sqrt(self.energy)
        lengths = norms[:, None] * norms[None, :]
        whole = lengths > 0
        ratio = np.divide(self.dot, lengths, out=np.zeros_like(lengths), where=whole)
        cosine: np.ndarray = np.clip(ratio, -1.0, 1.0)
        np.fill_diagonal(cosine, np.diagonal(whole).astype(float))
        return cosine

    def conflict(self) -> np.ndarray:
        """Share [K, K] of |tau_s tau_t| where signs differ, in [0, 1]; unrelated vectors have one half."""
        return _share(self.mass - self.dot, 2 * self.mass)

    def conflict_count(self) -> np.ndarray:
        """Share [K, K] of the elements where signs differ, of those that are zero in neither vector."""
        return _share(self.both - self.signs, 2 * self.both)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    share: np.ndarray = np.clip(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0), 0.0, 1.0)
    np.fill_diagonal(share, 0.0)
    return share


@dataclass(frozen=True)
class Kinship:
    """All pairs of ``tasks``: over the whole model, by layer, and by kind of matrix."""

    tasks: list[str]
    whole: Overlap
    layers: dict[str, Overlap]
    kinds: dict[str, Overlap]


def measure(tasks: Sequence[str], table: Mapping[str, Parameter], read: Read, progress: Progress) -> Kinship:
    """One pass over the task vectors of ``tasks``; ``read`` gives those of one parameter in that order."""
    none = Overlap.zero(len(tasks))
    whole, layers, kinds = none, dict[str, Overlap](), dict[str, Overlap]()

    def one(name: str) -> Overlap:
        return sum((overlap(vectors) for vectors in read(name)), none)

    # Added in the table's order, so that threads do not change a bit.
    for done, (name, part) in enumerate(zip(table, each(one, table), strict=True), start=1):
        layer, kind = layer_of(name), kind_of(table[name], table)
        whole += part
        layers[layer] = layers.get(layer, none) + part
        kinds[kind] = kinds.get(kind, none) + part
        progress("kinship", done, len(table))
    layers = dict(sorted(layers.items(), key=lambda item: item[0] == OUTSIDE))
    return Kinship(list(tasks), whole, layers, kinds)


def reader(base: Checkpoint, finetunes: Iterable[Finetune]) -> Read:
    """The task vectors of fine-tunes in stretches, adapters' too: memory does not grow with the parameter."""
    given = list(finetunes)

    def read(name: str) -> Iterable[list[Tensor | None]]:
        for _, rows in stretches(base.table[name].shape):
            original: Tensor | None = None
            vectors: list[Tensor | None] = []
            for finetune in given:
                if isinstance(finetune, Checkpoint):
                    original = base.weight(name, rows) if original is None else original
                    vectors.append(finetune.weight(name, rows).sub_(original))
                else:
                    vectors.append(task_vector(finetune, name, base, rows))
            yield vectors

    return read


def overlap(vectors: Sequence[Tensor | None]) -> Overlap:
    """The sums of one stretch of K vectors of one shape, float32; None are zero."""
    alive = [i for i, vector in enumerate(vectors) if vector is not None]
    sums = torch.zeros(4, len(vectors), len(vectors), dtype=torch.float64)
    if alive:
        flat = [vector.reshape(-1) for vector in vectors if vector is not None]
        total = torch.zeros(4, len(alive), len(alive), dtype=torch.float64)
        for pieces in zip(*(vector.split(CHUNK) for vector in flat), strict=True):
            rows = torch.stack(pieces)
            wide, sign = rows.double(), rows.sign()
            total[0] += wide @ wide.T
            total[2] += sign @ sign.T
            total[1] += wide.abs_() @ wide.T
            total[3] += sign.abs_() @ sign.T
        index = torch.tensor(alive)
        # A product with one's own transpose is symmetric only up to rounding.
        sums[:, index[:, None], index] = (total + total.mT) / 2
    return Overlap(*sums.numpy())


def layer_of(name: str) -> str:
    """The number of a parameter's layer, or OUTSIDE: embeddings, last norm, head."""
    found = re.search(r"\.(\d+)\.", name)
    return OUTSIDE if found is None else found[1]


def kind_of(parameter: Parameter, table: Mapping[str, Parameter]) -> str:
    """What a parameter is in its layer: its module's name for matrices, else embedding, norm or bias."""
    if parameter.kind is Kind.EMBEDDING:
        return "embedding"
    if parameter.kind is Kind.VECTOR:
        weight = table.get(f"{parameter.module}.weight")
        return "bias" if weight is not None and weight.is_matrix else "norm"
    return parameter.module.rpartition(".")[2]
