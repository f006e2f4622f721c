"""Records as lines of a file, each with a checksum; what cannot be stored everywhere is refused here."""

from __future__ import annotations

import json
import math
import re
from typing import Any
from zlib import crc32

from compress.errors import InputError
from serve.experiments.records import Change, Feedback, Routed, Served

Record = Served | Routed | Feedback | Change
KINDS: dict[str, type[Record]] = {
    "served": Served,
    "routed": Routed,
    "feedback": Feedback,
    "change": Change,
}
# Free text, where a character that cannot be stored is replaced instead of refused.
FREE = {"prompt", "text", "reason"}
# Characters of an id: PostgreSQL's indexes take about 2,700 bytes for all columns of a key.
LONGEST = 256
CHECKSUM = 8
UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def encode(record: Record) -> bytes:
    """One line: CRC-32 in hexadecimal, a space, JSON of [kind, fields].

    In prompts, texts and reasons, NUL and lone surrogates become U+FFFD: PostgreSQL stores neither. Raises
    InputError, one sentence, for such characters in other fields, ids beyond 256 characters, and numbers that
    are not finite.
    """
    kind = type(record).__name__.lower()
    fields = dict(vars(record))
    for name, value in vars(record).items():
        where = f"{kind} {name}"
        if isinstance(value, str):
            if name in FREE:
                fields[name] = UNSTORABLE.sub("\ufffd", value)
            else:
                _check_text(value, where, LONGEST if not isinstance(record, Change) else None)
        elif isinstance(value, dict):
            fields[name] = {_checked(key, where): _number(value[key], f"{where} {key!r}") for key in value}
        elif isinstance(value, float):
            _number(value, where)
    body = json.dumps([kind, fields], ensure_ascii=False, allow_nan=False).encode()
    return b"%08x %b\n" % (crc32(body), body)


def storable(change: Change) -> Change:
    """The same as a line would bring it back. Raises InputError as ``encode``."""
    same = decode(encode(change))
    assert isinstance(same, Change)
    return same


def decode(line: bytes) -> Record | None:
    """The record of a line, None for a line that is cut, damaged, or of a kind not known here."""
    body = line[CHECKSUM + 1 : -1]
    if not line.endswith(b"\n") or line[: CHECKSUM + 1] != b"%08x " % crc32(body):
        return None
    try:
        kind, fields = json.loads(body)
        return KINDS[kind](**fields)
    except (ValueError, TypeError, KeyError):
        # Well written, by a version of this program whose records have other fields.
        return None


def _checked(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise InputError(f"{where}: a name must be text, not {key!r}")
    _check_text(key, where, LONGEST)
    return key


def _check_text(text: str, where: str, longest: int | None) -> None:
    if longest is not None and len(text) > longest:
        raise InputError(f"{where}: {len(text)} characters are too long; send at most {longest}")
    if UNSTORABLE.search(text):
        raise InputError(f"{where}: {text[:40]!r} has a character that cannot be stored; leave it out")


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (OverflowError, ValueError, TypeError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, str):
        raise InputError(f"{where}: {str(value)[:40]!r} is no finite number; leave it out")
    return number
