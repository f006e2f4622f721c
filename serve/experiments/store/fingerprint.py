"""Prompts that are not stored are known by a keyed hash: alike ones can be counted, none can be guessed."""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

from compress.errors import InputError

FILE = "prompts.key"
BYTES = 32


def read_key(folder: Path) -> bytes:
    """The key in a folder, made the first time, readable by its owner alone. It is not in the database: who
    has only that cannot try prompts. Raises InputError for a file that cannot be read or is no key."""
    path = folder / FILE
    try:
        if not path.exists():
            _create(path)
        key = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the key of fingerprints cannot be read: {error.strerror}") from error
    if len(key) != BYTES:
        raise InputError(f"{path}: a key of fingerprints has {BYTES} bytes; restore it or delete it")
    return key


def fingerprint(key: bytes, text: str) -> str:
    """HMAC-SHA-256 (RFC 2104), hexadecimal."""
    return hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256").hex()


def _create(path: Path) -> None:
    unnamed = path.with_suffix(f".{os.getpid()}.new")
    file = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, secrets.token_bytes(BYTES))
        os.fsync(file)
        # A link, unlike a rename, leaves a key that another process has made meanwhile.
        os.link(unnamed, path)
    except FileExistsError:
        pass
    finally:
        os.close(file)
        unnamed.unlink()
