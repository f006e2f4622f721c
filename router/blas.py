"""Products of few prompts are too small for several threads, whose end costs more than their work.

OpenBLAS, which numpy and scipy bring, lets its threads spin for a while after a product, and a model's next
forward pass has to share the cores with them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

from threadpoolctl import ThreadpoolController


@cache
def _libraries() -> ThreadpoolController:
    # Looking for them takes milliseconds; numpy's and scipy's are loaded before anything is multiplied.
    return ThreadpoolController().select(user_api="blas")


def one_thread() -> AbstractContextManager[object]:
    """numpy and scipy multiply on one thread inside; torch has threads of its own."""
    limited: AbstractContextManager[object] = _libraries().limit(limits=1)
    return limited
