"""The same work on many things in a few threads: torch, numpy and file reads leave the interpreter free."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

In = TypeVar("In")
Out = TypeVar("Out")
# More threads hold more tensors in memory, and reading is soon as fast as it gets.
WORKERS = 4


def each(call: Callable[[In], Out], things: Iterable[In], workers: int = WORKERS) -> Iterator[Out]:
    """``call`` of every thing, in the things' order. The first exception is raised at its place; what has not
    begun by then never begins."""
    workers, threads = min(workers, os.cpu_count() or 1), torch.get_num_threads()
    # Each worker has an OpenMP team of its own, and several of all cores stand in each other's way.
    own = max(1, threads // workers)
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(own,)) as pool:
        try:
            yield from pool.map(call, things)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            # What a worker sets, later threads would take over.
            torch.set_num_threads(threads)
