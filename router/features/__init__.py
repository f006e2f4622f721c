"""Prompts to vectors, in one of several ways, each a class with ``extract``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from scipy import sparse

from router.query import Query, Turn

Matrix = Any
"""Features [n, d], float32: a numpy array, or for hashed n-grams a scipy.sparse.csr_matrix."""
Progress = Callable[[int, int], None]
FeatureKind = Literal["tfidf", "embedding", "hidden", "sentence", "projection"]
Pooling = Literal["mean", "last", "both"]
# Those that say nothing of a task by themselves, by what a prompt costs, the cheapest first.
FEATURE_KINDS: tuple[FeatureKind, ...] = ("embedding", "tfidf", "sentence", "hidden")


class Features(Protocol):
    """needs_model: whether features are the served model's own, so that another base has others."""

    needs_model: ClassVar[bool]

    def extract(self, model: Any, turns: Sequence[Turn], progress: Progress | None = None) -> Matrix:
        """One row a turn, in the order given; ``progress`` hears (turns done, turns in all).

        ``model``: the shared base, in eval mode. Raises InputError where it has not what is needed.
        """
        ...


def stacked(parts: Sequence[Matrix]) -> Matrix:
    """Rows of several matrices of one kind, one after the other."""
    return sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts)


def finite(x: Matrix) -> bool:
    """Whether all numbers of a matrix are."""
    return bool(np.isfinite(x.data if sparse.issparse(x) else x).all())


def query_features(
    features: Features,
    model: Any,
    queries: Sequence[Query],
    history: float,
    progress: Progress | None = None,
) -> Matrix:
    """Features of conversations: the mean of their turns', the last one weighing most.

    The last turn has weight 1 and each one before ``history`` times its successor's; 0 sees the last
    alone. A turn that occurs several times is extracted once.
    """
    found: dict[Turn, int] = {}
    rows, columns, weights = [], [], []
    for row, query in enumerate(queries):
        turns = query.turns if history else query.turns[-1:]
        shares = history ** np.arange(len(turns) - 1, -1, -1.0)
        for turn, share in zip(turns, shares / shares.sum(), strict=True):
            rows.append(row)
            columns.append(found.setdefault(turn, len(found)))
            weights.append(share)
    extracted = features.extract(model, list(found), progress)
    if rows == columns:  # one turn each, no two alike
        return extracted
    mean = sparse.csr_matrix((weights, (rows, columns)), (len(queries), len(found)), dtype=np.float32)
    return mean @ extracted
