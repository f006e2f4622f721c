"""One file of the spool: lines are appended by one process, which holds a lock on it while it lives."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from serve.experiments.store.lines import Record, decode

SUFFIX = ".jsonl"


class Place(NamedTuple):
    """Where a line lies: bytes ``offset`` to ``offset + length`` of a segment."""

    segment: Segment
    offset: int
    length: int


class Segment:
    """size: bytes of it that count, whatever lies behind them. delivered: those of them that the database
    has. closed: nothing is appended any more."""

    def __init__(self, path: Path, file: int, size: int, closed: bool) -> None:
        self.path, self.size, self.closed = path, size, closed
        self.delivered = 0
        self._file = file

    @classmethod
    def create(cls, path: Path) -> Segment:
        """A new one. It bears its name only once it is locked, so that no other process takes it over."""
        unnamed = path.with_suffix(".new")
        file = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(unnamed, path)
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except BaseException:
            os.close(file)
            unnamed.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise
        return cls(path, file, 0, closed=False)

    @classmethod
    def adopt(cls, path: Path) -> Segment | None:
        """What a process left that has ended; None where one still works on it, or has just delivered it."""
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        state = os.fstat(file)
        if state.st_nlink == 0:
            os.close(file)
            return None
        return cls(path, file, state.st_size, closed=True)

    def append(self, lines: Sequence[bytes], durable: bool) -> list[Place]:
        """Write behind what counts already, without counting it yet. durable: safe against a power failure
        when it returns. Raises OSError, and then nothing was appended."""
        start = self.size
        places = []
        for line in lines:
            places.append(Place(self, start, len(line)))
            start += len(line)
        try:
            rest = memoryview(b"".join(lines))
            offset = self.size
            while rest:
                written = os.pwrite(self._file, rest, offset)
                rest, offset = rest[written:], offset + written
            if durable:
                os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self.size)
            raise
        return places

    def line(self, offset: int, length: int) -> bytes:
        """One line's bytes, none once it is released."""
        return os.pread(self._file, length, offset) if self._file >= 0 else b""

    def records(self, most: int) -> tuple[list[tuple[Record, Place]], list[bytes], int]:
        """Up to ``most`` of the lines that the database has not, as records; those among them that cannot be
        read; where the next ones begin. A last line without its end was never acknowledged: it is skipped."""
        found: list[tuple[Record, Place]] = []
        damaged: list[bytes] = []
        with open(self._file, "rb", closefd=False) as file:
            file.seek(self.delivered)
            offset = self.delivered
            while offset < self.size and len(found) + len(damaged) < most:
                line = file.readline(self.size - offset)
                if not line:
                    # Shorter than it was: somebody has cut the file.
                    return found, damaged, self.size
                record = decode(line)
                if record is not None:
                    found.append((record, Place(self, offset, len(line))))
                elif line.endswith(b"\n"):
                    damaged.append(line)
                offset += len(line)
        return found, damaged, offset

    def release(self, remove: bool) -> None:
        """Close it, and with ``remove`` delete it first, while nobody else can lock it."""
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1
