"""Products of few prompts are too small for several threads, whose end costs more than their work.

OpenBLAS, which numpy and scipy bring, lets its threads spin for a while after a product, and a model's next
forward pass has to share the cores with them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController

_lock = threading.Lock()


@cache
def _libraries() -> ThreadpoolController:
    # Looking for them takes milliseconds; numpy's and scipy's are loaded before anything is multiplied.
    return ThreadpoolController().select(user_api="blas")


@contextmanager
def one_thread() -> Iterator[None]:
    """numpy and scipy multiply on one thread inside; torch has threads of its own."""
    # The number is the process's: whoever left first would give the other one more, and the last leave one.
    with _lock, _libraries().limit(limits=1):
        yield
