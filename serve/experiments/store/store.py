"""The store of experiments: what the endpoint puts in and what reports take out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from itertools import chain
from pathlib import Path

from prometheus_client import CollectorRegistry
from sqlalchemy.exc import SQLAlchemyError

from compress.errors import InputError
from serve.experiments.records import Change, Feedback, Served
from serve.experiments.store import reading
from serve.experiments.store.courier import Courier
from serve.experiments.store.database import Database
from serve.experiments.store.delivery import RANK, keep
from serve.experiments.store.errors import StoreAwayError
from serve.experiments.store.fingerprint import fingerprint, read_key
from serve.experiments.store.lines import Record, storable
from serve.experiments.store.metrics import StoreMetrics
from serve.experiments.store.pending import Pending
from serve.experiments.store.remembered import Remembered
from serve.experiments.store.settings import DEFAULT_RETENTION, DEFAULT_SPOOL
from serve.experiments.store.spool import SEGMENT_BYTES, Spool
from serve.experiments.store.writer import Writer

# Segments of a full spool, each of which is an open file.
MOST_SEGMENTS = 64


class Store:
    """Records go to a spool on disk, and from there to the database by a thread of their own: nothing that
    the endpoint does waits for the database, which may be away.

    ``put`` and ``put_durably`` belong to event loops, all other calls to threads. Reads come from the
    database: what was put a moment ago may not be there yet, but ``find`` and ``experiments`` know it all
    the same. Several processes may share a folder and a database.
    """

    def __init__(
        self, database: Database, spool: Spool, key: bytes, bound: int, retention: float | None
    ) -> None:
        """As ``open``."""
        self.bound = bound
        self.database, self.spool = database, spool
        self._key = key
        self._remembered = Remembered(spool.folder)
        self.pending = Pending(spool)
        self.writer = Writer(spool, self.pending, bound)
        self.courier = Courier(spool, self.pending, database, retention)
        self.metrics = CollectorRegistry()
        self.metrics.register(StoreMetrics(self.writer, self.courier, spool, bound))

    @classmethod
    def open(
        cls, url: str, spool: Path, *, bound: int = DEFAULT_SPOOL, retention: float | None = DEFAULT_RETENTION
    ) -> Store:
        """Open a store, and bring the database's schema up to date.

        url: ``sqlite:///file`` or ``postgresql://…``. spool: a folder of this machine's. bound: bytes of
        records that may wait. retention: days.

        A PostgreSQL that does not answer, or a SQLite file that is locked, is tried again later; whatever
        else is wrong raises InputError.
        """
        database = Database(url)
        try:
            with database.reading():
                pass
        except StoreAwayError as error:
            if database.embedded and "locked" not in error.why:
                raise InputError(f"{error.why}; experiments need a file that can be written to") from error
        except SQLAlchemyError as error:
            said = " ".join(str(getattr(error, "orig", error)).split())
            raise InputError(f"the database {database.name} cannot hold experiments: {said}") from error
        waiting = Spool(spool, max(SEGMENT_BYTES, bound // MOST_SEGMENTS))
        return cls(database, waiting, read_key(spool), bound, retention)

    def put(self, record: Record) -> None:
        """Take a record, without waiting: it is safe some milliseconds later. One of a response that cannot
        be kept is dropped and counted; for others, raises StoreFullError or InputError."""
        self.writer.put(record)

    async def put_durably(self, record: Feedback | Change) -> None:
        """Take a record; when this returns, it survives kill -9 and a power failure. Raises StoreFullError,
        and InputError for what cannot be stored, as a number that is not finite."""
        done: Future[None] = Future()
        # Cancelling the caller must not take back what is about to be written.
        done.set_running_or_notify_cancel()
        self.writer.put(record, done)
        await asyncio.wrap_future(done)

    def find(self, response_id: str) -> Served | None:
        """The record of a response, from the moment that it was put. Raises StoreAwayError where only the
        database could tell."""
        found = self.pending.find(response_id)
        if found is not None:
            return found
        with self.database.reading() as connection:
            return reading.find(connection, response_id)

    def served(self, experiment: str, version: int | None = None) -> Iterator[Served]:
        """Responses of an experiment, of one version or of all, the oldest first; streamed. Raises
        StoreAwayError, here and at any step."""
        with self.database.reading() as connection:
            yield from reading.served(connection, experiment, version)

    def outcomes(self, experiment: str) -> Iterator[Feedback]:
        """What was said of an experiment's responses, the oldest first; streamed. Raises StoreAwayError."""
        with self.database.reading() as connection:
            yield from reading.outcomes(connection, experiment)

    def units(self, experiment: str, version: int) -> dict[str, int]:
        """Distinct units that were shown each arm of a version, shadowed answers aside. Raises
        StoreAwayError."""
        with self.database.reading() as connection:
            return reading.units(connection, experiment, version)

    def experiments(self) -> list[Change]:
        """The last version of every experiment; while the database is away, as this folder's servers last saw
        it. Raises StoreAwayError where they never did."""
        # The pending ones first: what is delivered between the two looks is then seen twice, not never.
        pending = self.pending.changes()
        try:
            with self.database.reading() as connection:
                held = _last(reading.history(connection, None))
        except StoreAwayError:
            remembered = self._remembered.read()
            if remembered is None:
                raise
            return _last(remembered, pending)
        self._remembered.write(held)
        return _last(held, pending)

    def history(self, experiment: str) -> list[Change]:
        """All versions of an experiment that the database has, the first one first. Raises StoreAwayError."""
        with self.database.reading() as connection:
            return reading.history(connection, experiment)

    def save_experiment(self, change: Change) -> None:
        """Keep a version of an experiment; the same version again changes its state. Safe when it returns,
        even while the database is away: then it waits in the spool.

        Raises VersionTakenError where another server has made something else of that version, StoreFullError
        where it can be kept nowhere, InputError for what cannot be stored.
        """
        change = storable(change)
        try:
            with self.database.writing() as connection:
                keep(connection, change)
            self.experiments()  # so that it is remembered, too
        except StoreAwayError:
            done: Future[None] = Future()
            self.writer.put(change, done)
            done.result()

    def fingerprint(self, prompt: str) -> str:
        """What ``Served.prompt`` is where the experiment does not store prompts: HMAC-SHA-256 under the
        spool folder's key."""
        return fingerprint(self._key, prompt)

    def flush(self, seconds: float) -> bool:
        """Wait until the database has all that was put before; whether it has, after so many seconds."""
        end = time.monotonic() + seconds
        while not (self.writer.idle and self.spool.bytes == 0):
            if time.monotonic() >= end:
                return False
            time.sleep(0.01)
        return True

    def close(self, seconds: float = 5.0) -> None:
        """Write all that is queued to disk, and to the database what it takes within so many seconds; the
        rest waits for the next process. Further records are refused."""
        self.writer.close()
        self.flush(seconds)
        self.courier.close(seconds)
        self.spool.close()
        self.database.close()


def _last(*changes: Iterable[Change]) -> list[Change]:
    """Of each experiment the last version in its furthest state, by name."""
    last: dict[str, Change] = {}
    for change in chain(*changes):
        other = last.get(change.name, change)
        if (change.version, RANK[change.state]) >= (other.version, RANK[other.state]):
            last[change.name] = change
    return [last[name] for name in sorted(last)]
