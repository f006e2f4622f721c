"""Which fine-tunes to merge first, and which together: greedily by kinship.

Top-k greedy merging (Hu et al. 2024, arXiv:2410.12613) merges its best models again and again, scores every
merge, and takes kinship as the guide to partners. Before any score there is only the guide: begin with the
most kindred pair, add whoever is most kindred to those already in. Kinship with several is the mean cosine.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

# Below it two fine-tunes count as unrelated, and begin no group: task vectors of different tasks are close to
# orthogonal (Ilharco et al. 2023, arXiv:2212.04089). This repository's fine-tunes of unrelated tasks have
# cosines up to 0.06 as adapters and 0.07 to 0.09 with all weights trained; the most kindred have 0.11.
UNRELATED = 0.1
# A group grows while the next is at least this share as kindred to it as its first pair was: the measure is
# the group's own, because cosines of adapters are far smaller than those of full fine-tunes of alike data.
SHARE = 0.5


def merge_order(cosine: np.ndarray) -> list[tuple[int, float]]:
    """All of K vectors by cosine [K, K]: (vector, its kinship with those before it; of the first 1)."""
    left = set(range(len(cosine)))
    if len(left) < 2:
        return [(only, 1.0) for only in left]
    first, second = _closest(cosine, left)
    order = [(first, 1.0), (second, float(cosine[first, second]))]
    left -= {first, second}
    while left:
        best, kinship = _next(cosine, (vector for vector, _ in order), left)
        order.append((best, kinship))
        left.remove(best)
    return order


def groups(cosine: np.ndarray) -> list[list[int]]:
    """K vectors in groups by cosine [K, K]: the most kindred first, those that nobody is kindred to last,
    each alone."""
    left = set(range(len(cosine)))
    found: list[list[int]] = []
    while len(left) > 1:
        first, second = _closest(cosine, left)
        kinship = cosine[first, second]
        if kinship < UNRELATED:
            break
        group = [first, second]
        left -= {first, second}
        while left:
            best, mean = _next(cosine, group, left)
            if mean < SHARE * kinship:
                break
            group.append(best)
            left.remove(best)
        found.append(group)
    return found + [[alone] for alone in sorted(left)]


def _closest(cosine: np.ndarray, left: set[int]) -> tuple[int, int]:
    pairs = [(i, j) for i in sorted(left) for j in sorted(left) if i < j]
    return max(pairs, key=lambda pair: cosine[pair])


def _next(cosine: np.ndarray, group: Iterable[int], left: set[int]) -> tuple[int, float]:
    members = list(group)
    best = max(sorted(left), key=lambda vector: cosine[vector, members].mean())
    return best, float(cosine[best, members].mean())
