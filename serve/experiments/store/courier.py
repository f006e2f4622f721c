"""From the spool to the database: a thread delivers records in order, and again until it has them."""

from __future__ import annotations

import logging
import random
import threading
import time

from sqlalchemy.exc import SQLAlchemyError

from compress.errors import InputError
from serve.experiments.store.database import Database, is_about_the_data
from serve.experiments.store.delivery import deliver
from serve.experiments.store.errors import StoreAwayError, VersionTakenError
from serve.experiments.store.pending import Pending
from serve.experiments.store.retention import DAY, purge
from serve.experiments.store.spool import Batch, Spool

log = logging.getLogger(__name__)

# Records of one transaction.
MOST = 1000
# Seconds that a first record waits for others, so that a transaction has more than one.
GATHER = 0.1
# Seconds between attempts: doubled from the first to the last, and then by a random part less, so that
# servers do not all come back at once.
FIRST, LAST = 0.25, 15.0
# Seconds between two looks for records that are too old.
PURGE_EVERY = 3600.0


class Courier:
    """delivered: records that the database has. refused: those that it can never take, which are in a file
    for people. failed: when it last did not answer, by time.monotonic, or None."""

    def __init__(self, spool: Spool, pending: Pending, database: Database, retention: float | None) -> None:
        """retention: days."""
        self.delivered = self.refused = self.purged = 0
        self.failed: float | None = None
        self._spool, self._pending, self._database = spool, pending, database
        self._retention = retention
        self._next_purge = time.monotonic()
        self._away = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="experiments-database", daemon=True)
        self._thread.start()

    def close(self, seconds: float) -> None:
        """End. seconds: for what is on its way; a thread that hangs in the database is left behind."""
        self._stop.set()
        with self._spool.changed:
            self._spool.changed.notify_all()
        self._thread.join(seconds)

    def _run(self) -> None:
        pause = FIRST
        while not self._stop.is_set():
            try:
                self._purge()
                batch = self._spool.read(MOST)
                if batch is None:
                    self._wait()
                    continue
                self._take(batch)
                pause = FIRST
                if self._away:
                    log.info("the database %s takes records of experiments again", self._database.name)
                    self._away = False
            except Exception as error:
                # Records stay where they are, so going on is safe whatever it was.
                self._tell(error)
                self._stop.wait(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, LAST)

    def _wait(self) -> None:
        with self._spool.changed:
            due = max(0.0, self._next_purge - time.monotonic())
            if self._spool.bytes == 0 and not self._stop.is_set():
                self._spool.changed.wait(due if self._retention is not None else None)
        self._stop.wait(GATHER)

    def _take(self, batch: Batch) -> None:
        refused = list(batch.damaged)
        records = [record for record, _ in batch.records]
        try:
            with self._database.writing() as connection:
                deliver(connection, records)
        except (SQLAlchemyError, VersionTakenError) as error:
            if isinstance(error, SQLAlchemyError) and not is_about_the_data(error):
                raise
            refused += self._one_by_one(batch)
        if refused:
            log.error(
                "%d records of experiments cannot be stored; they are in %s", len(refused), self._spool.aside
            )
            self._spool.set_aside(refused)
        self.refused += len(refused)
        self.delivered += len(batch.records) + len(batch.damaged) - len(refused)
        self._spool.done(batch)
        for record, place in batch.records:
            self._pending.settle(record, place)

    def _one_by_one(self, batch: Batch) -> list[bytes]:
        """Deliver all that can be; the lines of the others."""
        refused = []
        for record, place in batch.records:
            try:
                with self._database.writing() as connection:
                    deliver(connection, [record])
            except (SQLAlchemyError, VersionTakenError) as error:
                if isinstance(error, SQLAlchemyError) and not is_about_the_data(error):
                    raise
                log.error("a record of experiments is refused: %s", str(error).splitlines()[0])
                refused.append(self._spool.line(place))
        return refused

    def _purge(self) -> None:
        if self._retention is None or time.monotonic() < self._next_purge:
            return
        self._next_purge = time.monotonic() + PURGE_EVERY
        for count in purge(self._database, time.time() - self._retention * DAY):
            self.purged += count
            if self._stop.is_set() or self._spool.bytes:
                # Records come first; the next turn goes on with the old ones.
                self._next_purge = time.monotonic()
                break

    def _tell(self, error: Exception) -> None:
        self.failed = time.monotonic()
        if self._away:
            return
        self._away = True
        if isinstance(error, StoreAwayError | InputError):
            why = error.why if isinstance(error, StoreAwayError) else error
            log.error("%s; records of experiments wait in %s", why, self._spool.folder)
        else:
            log.exception("records of experiments wait in %s", self._spool.folder)
