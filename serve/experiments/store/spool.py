"""Records on disk on their way to the database: a folder of segments, in the order of their names.

Appended to by one thread and delivered by another. Processes may share the folder: each appends to segments
of its own, and takes over those of processes that have ended.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.errors import InputError
from serve.experiments.store.lines import Record
from serve.experiments.store.segment import SUFFIX, Place, Segment

log = logging.getLogger(__name__)

# A segment is deleted as a whole: this much is delivered again after a crash at most, to no effect.
SEGMENT_BYTES = 2**20
ASIDE = "refused.lines"


@dataclass(frozen=True)
class Batch:
    """Records to deliver, with their places, and lines that cannot be read; ``end`` is behind them."""

    segment: Segment
    records: list[tuple[Record, Place]]
    damaged: list[bytes]
    end: int


class Spool:
    """bytes: what the database does not have yet. aside: the file of lines that it can never take."""

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Raises InputError where the folder cannot be written to."""
        self.folder, self.aside, self.segment_bytes = folder, folder / ASIDE, segment_bytes
        self.changed = threading.Condition()
        self._segments: deque[Segment] = deque()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for path in sorted(folder.glob(f"*{SUFFIX}")):
                segment = Segment.adopt(path)
                if segment is not None:
                    self._segments.append(segment)
        except OSError as error:
            raise InputError(
                f"{folder}: the spool of experiments cannot be opened ({error.strerror}); "
                "give experiments a state folder that this user can write to"
            ) from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(f"{folder}: the spool of experiments cannot be written to; choose another")
        self.bytes = sum(segment.size for segment in self._segments)

    def left(self) -> Iterator[tuple[Record, Place]]:
        """What the segments hold that were taken over."""
        for segment in self._segments:
            yield from segment.records(segment.size)[0]

    def write(self, lines: Sequence[bytes], durable: bool) -> list[Place]:
        """Append lines, for ``publish`` to count. durable: safe against a power failure when it returns.
        Raises OSError, and then none of them is appended."""
        with self.changed:
            segment = self._segments[-1] if self._segments else None
            if segment is None or segment.closed:
                segment = Segment.create(self.folder / f"{time.time_ns():020d}-{os.getpid()}{SUFFIX}")
                self._segments.append(segment)
        try:
            return segment.append(lines, durable)
        except OSError:
            # What a failed fsync has left of a file is not known: go on in another.
            with self.changed:
                segment.closed = True
                if segment.size == 0:
                    segment.release(remove=True)
                    self._segments.remove(segment)
            raise

    def publish(self, places: Sequence[Place]) -> None:
        """Count lines as appended: they can be delivered from now on."""
        segment, added = places[-1].segment, sum(place.length for place in places)
        with self.changed:
            segment.size += added
            self.bytes += added
            segment.closed = segment.size >= self.segment_bytes
            self.changed.notify_all()

    def read(self, most: int) -> Batch | None:
        """The next records that the database does not have, None where it has all."""
        with self.changed:
            segment = next((one for one in self._segments if one.delivered < one.size), None)
        if segment is None:
            return None
        return Batch(segment, *segment.records(most))

    def done(self, batch: Batch) -> None:
        """The database has the batch."""
        with self.changed:
            self.bytes -= batch.end - batch.segment.delivered
            batch.segment.delivered = batch.end
            self._sweep()
            self.changed.notify_all()

    def set_aside(self, lines: Sequence[bytes]) -> None:
        """Keep lines that the database can never take, in a file for people."""
        try:
            file = os.open(self.aside, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(file, b"".join(lines))
            finally:
                os.close(file)
        except OSError as error:
            log.error("%d lines of experiments are lost: %s: %s", len(lines), self.aside, error)

    def line(self, place: Place) -> bytes:
        """A line's bytes, none once its segment has been delivered."""
        with self.changed:
            return place.segment.line(place.offset, place.length)

    def close(self) -> None:
        """What is not delivered stays for the next process."""
        with self.changed:
            for segment in self._segments:
                segment.release(remove=segment.delivered == segment.size)
            self._segments.clear()

    def _sweep(self) -> None:
        while self._segments and self._segments[0].closed:
            segment = self._segments[0]
            if segment.delivered < segment.size:
                return
            segment.release(remove=True)
            self._segments.popleft()
