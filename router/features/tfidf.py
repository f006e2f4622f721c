"""Text to hashed n-grams of words and characters: no model, and no vocabulary to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer

from router.features import Progress
from router.query import Turn, clip
from router.scaling import unit

BUCKETS = 2**16
# A longer text is clipped: n-grams of characters cost a microsecond each.
CHARACTERS = 4000
BATCH = 256
# Words, and every mark that is neither word nor space: "!!" and "(" tell styles of writing apart.
TOKEN = r"(?u)\w+|[^\w\s]"


@dataclass(frozen=True)
class TfidfFeatures:
    """Term frequencies, ``1 + ln tf``, of word 1- and 2-grams and of character 2- to 5-grams inside words
    (Weinberger et al. 2009, feature hashing), each half of unit length. How rare a term is, is learnt
    from the training prompts and belongs to the scaling."""

    needs_model: ClassVar[bool] = False

    def extract(
        self, model: Any, turns: Sequence[Turn], progress: Progress | None = None
    ) -> sparse.csr_matrix:
        """Float32, sparse ``[len(turns), 2 * BUCKETS]``; ``model`` is not used."""
        parts = [sparse.csr_matrix((0, 2 * BUCKETS), dtype=np.float32)]
        for start in range(0, len(turns), BATCH):
            texts = [clip(turn.text, CHARACTERS) for turn in turns[start : start + BATCH]]
            halves = []
            for vectorizer in _vectorizers():
                counts = vectorizer.transform(texts)
                counts.data = 1 + np.log(counts.data)
                halves.append(unit(counts))
            parts.append(sparse.hstack(halves, format="csr", dtype=np.float32))
            if progress is not None:
                progress(start + len(texts), len(turns))
        return sparse.vstack(parts, format="csr")


@lru_cache(maxsize=1)
def _vectorizers() -> list[HashingVectorizer]:
    common = {"n_features": BUCKETS, "alternate_sign": False, "norm": None, "dtype": np.float32}
    return [
        HashingVectorizer(analyzer="word", ngram_range=(1, 2), token_pattern=TOKEN, **common),
        HashingVectorizer(analyzer="char_wb", ngram_range=(2, 5), **common),
    ]
