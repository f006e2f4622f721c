"""What the database does not have yet, to be found all the same."""

from __future__ import annotations

import threading

from serve.experiments.records import Change, Served
from serve.experiments.store.lines import Record, decode
from serve.experiments.store.segment import Place
from serve.experiments.store.spool import Spool


class Pending:
    """Responses by id, with their line while it is queued and with its place afterwards; changes whole.

    A place is about 400 bytes with its id: far less than the record, of which a spool may hold many.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._lock = threading.Lock()
        self._responses: dict[str, bytes | Place] = {}
        self._changes: dict[tuple[str, int], Change] = {}
        for record, place in spool.left():
            self.add(record, place)

    def add(self, record: Record, line: bytes | Place) -> None:
        """It is queued, or written."""
        with self._lock:
            if isinstance(record, Served):
                self._responses[record.response] = line
            elif isinstance(record, Change):
                self._changes[record.name, record.version] = record

    def settle(self, record: Record, line: bytes | Place) -> None:
        """The database has what was added with this line or place, or never will."""
        with self._lock:
            if isinstance(record, Served) and self._responses.get(record.response) == line:
                del self._responses[record.response]
            elif isinstance(record, Change) and self._changes.get((record.name, record.version)) == record:
                del self._changes[record.name, record.version]

    def find(self, response: str) -> Served | None:
        """The record of a response; None where the database is to be asked."""
        with self._lock:
            where = self._responses.get(response)
        if where is None:
            return None
        record = decode(self._spool.line(where) if isinstance(where, Place) else where)
        return record if isinstance(record, Served) else None

    def changes(self) -> list[Change]:
        """All of them, in the order in which they came."""
        with self._lock:
            return list(self._changes.values())
