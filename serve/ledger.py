"""Which requests wait, run and have ended: one account that always balances."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from serve.job import Job
from serve.times import Outcome


@dataclass(frozen=True)
class Balance:
    """The account at one moment: ``received`` is all that waits, runs and has ended.

    ended: (arm, outcome) -> requests.
    """

    received: int
    waiting: tuple[Job, ...]
    running: tuple[Job, ...]
    ended: dict[tuple[str, Outcome], int]


class Ledger:
    """Entries come from callers' threads and the engine's, and are read from a third: hence the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received = 0
        self._waiting: set[Job] = set()
        self._running: set[Job] = set()
        self._ended: Counter[tuple[str, Outcome]] = Counter()

    def arrived(self, job: Job) -> None:
        with self._lock:
            self._received += 1
            self._waiting.add(job)

    def admitted(self, job: Job) -> None:
        with self._lock:
            self._waiting.remove(job)
            self._running.add(job)

    def ended(self, job: Job, outcome: Outcome) -> None:
        with self._lock:
            self._waiting.discard(job)
            self._running.discard(job)
            self._ended[arm(job), outcome] += 1

    def balance(self) -> Balance:
        with self._lock:
            return Balance(self._received, tuple(self._waiting), tuple(self._running), dict(self._ended))


def arm(job: Job) -> str:
    """The arm that answers a request; before it is routed, the one that it asked for."""
    return job.routing.arm if job.routing is not None else job.request.target.label


def experts(jobs: Iterable[Job]) -> list[str]:
    """Names of the experts in these requests' mixtures, in order."""
    return sorted({name for job in jobs if job.routing is not None for name in job.routing.experts})
