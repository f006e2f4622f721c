"""From the request path to the spool: records are queued, and a thread writes what has gathered in one go."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from concurrent.futures import Future
from dataclasses import dataclass

from compress.errors import InputError
from serve.experiments.records import Routed, Served
from serve.experiments.store.errors import StoreFullError
from serve.experiments.store.lines import Record, encode
from serve.experiments.store.pending import Pending
from serve.experiments.store.spool import Spool

log = logging.getLogger(__name__)

# Lines of one write.
MOST = 1000
FULL = "the spool of experiments is full, since its database does not take records; try again later"


@dataclass(frozen=True, eq=False)
class Entry:
    """done: told when the line is safe, or why it cannot be."""

    record: Record
    line: bytes
    done: Future[None] | None


class Writer:
    """bound: bytes that may be queued and spooled together. dropped: records that nobody waited for and that
    were not kept, by why: ``bound``, ``disk`` or ``invalid``."""

    def __init__(self, spool: Spool, pending: Pending, bound: int) -> None:
        self.bound = bound
        self.dropped: Counter[str] = Counter({"bound": 0, "disk": 0, "invalid": 0})
        self._spool, self._pending = spool, pending
        self._changed = threading.Condition()
        self._queue: deque[Entry] = deque()
        self._bytes = 0
        self._failing = self._closed = False
        self._told: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="experiments-spool", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """Records that are not in the spool yet."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Whether all records are in the spool, and counted there."""
        return self._bytes == 0

    def put(self, record: Record, done: Future[None] | None = None) -> None:
        """Queue a record, in microseconds. One of a response that cannot be kept is counted and dropped; for
        all others, raises StoreFullError, or InputError for what ``encode`` refuses."""
        try:
            line = encode(record)
        except InputError as error:
            if not isinstance(record, Served | Routed):
                raise
            self._drop("invalid", str(error))
            return
        with self._changed:
            full = self._bytes + self._spool.bytes + len(line) > self.bound
            if not full and not self._closed:
                self._pending.add(record, line)
                self._queue.append(Entry(record, line, done))
                self._bytes += len(line)
                self._told.discard("bound")
                self._changed.notify()
                return
        if not isinstance(record, Served | Routed):
            raise StoreFullError(FULL if full else "the server is shutting down; try again later")
        self._drop("bound", FULL)

    def close(self) -> None:
        """Write what is queued, then end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if not self._queue:
                    return
                batch = [self._queue.popleft() for _ in range(min(MOST, len(self._queue)))]
            self._write(batch)
            with self._changed:
                self._bytes -= sum(len(entry.line) for entry in batch)

    def _write(self, batch: list[Entry]) -> None:
        durable = any(entry.done is not None for entry in batch)
        try:
            places = self._spool.write([entry.line for entry in batch], durable)
        except Exception as error:
            # Whatever it was: those who wait must be told, and the thread has to go on.
            why = error.strerror if isinstance(error, OSError) else repr(error)
            self._refuse(batch, f"the disk does not take records of experiments ({why})")
            return
        if self._failing:
            log.info("the disk takes records of experiments again")
            self._failing = False
        for entry, place in zip(batch, places, strict=True):
            self._pending.add(entry.record, place)
        # Only now: what is delivered first would never leave the pending ones.
        self._spool.publish(places)
        for entry in batch:
            if entry.done is not None:
                entry.done.set_result(None)

    def _refuse(self, batch: list[Entry], why: str) -> None:
        if not self._failing:
            log.error("%s: responses go unrecorded and feedback is refused", why)
            self._failing = True
        for entry in batch:
            self._pending.settle(entry.record, entry.line)
            if entry.done is not None:
                entry.done.set_exception(StoreFullError(f"{why}; try again later"))
            else:
                self.dropped["disk"] += 1

    def _drop(self, reason: str, why: str) -> None:
        if reason not in self._told:
            log.error("a response goes unrecorded, and so may others: %s", why)
            self._told.add(reason)
        self.dropped[reason] += 1
