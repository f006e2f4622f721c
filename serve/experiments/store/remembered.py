"""The last versions of experiments as a server last saw them, for a start while the database is away."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from serve.experiments.records import Change
from serve.experiments.store.lines import decode, encode

FILE = "experiments.lines"
log = logging.getLogger(__name__)


class Remembered:
    """A file in the spool's folder: whoever starts again goes on with the same arms for the same units."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def read(self) -> list[Change] | None:
        """What was last written; None where nothing was, or where a line of it is damaged."""
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
        except OSError:
            return None
        changes = [change for change in map(decode, lines) if isinstance(change, Change)]
        return changes if len(changes) == len(lines) else None

    def write(self, changes: Sequence[Change]) -> None:
        """Replace it in one step. A disk that does not take it is told in the log alone."""
        if self.read() == list(changes):
            return
        unnamed = self._path.with_suffix(f".{os.getpid()}.new")
        try:
            unnamed.write_bytes(b"".join(map(encode, changes)))
            os.replace(unnamed, self._path)
        except OSError as error:
            log.warning(
                "%s: the experiments as they stand cannot be remembered: %s", self._path, error.strerror
            )
            unnamed.unlink(missing_ok=True)
