"""API keys at rest: a YAML or JSON file of names and hashes."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compress.errors import InputError
from compress.recipe import validation_sentence
from compress.yamlfile import read_mapping

Role = Literal["user", "admin"]
# Lets scanners of repositories and logs recognise a key that has slipped out.
MARK = "tws-"


class Key(BaseModel):
    """One key. name: for logs, limits and revoking. sha256: of the secret, hexadecimal."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    role: Role = "user"
    created: datetime.date | None = None


class KeysFile(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    keys: list[Key]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [key.name for key in self.keys]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the name {twice[0]!r} stands there twice")
        return self


def new_secret() -> str:
    """256 random bits, printable."""
    return MARK + secrets.token_urlsafe(32)


def digest(secret: bytes) -> str:
    """SHA-256, hexadecimal.

    A fast hash without salt is right for 256 random bits: nobody can go through them, and two are never
    the same. Slow hashes are for passwords, which people choose; here one would only let strangers keep
    the server busy.
    """
    return hashlib.sha256(secret).hexdigest()


def read_keys(path: Path) -> list[Key]:
    """The file's keys. Raises InputError, one sentence, for a file that is broken or not there."""
    content = read_mapping(path, "keys file", list(KeysFile.model_fields))
    try:
        return KeysFile.model_validate(content).keys
    except ValidationError as error:
        raise InputError(f"{path}: {validation_sentence(error, KeysFile)}") from error


def write_keys(path: Path, keys: list[Key]) -> None:
    """Replace the file, readable by its owner alone: a reader sees the old one or the new one, whole."""
    content = KeysFile(keys=keys).model_dump(mode="json")
    text = (
        json.dumps(content, indent=1) + "\n"
        if path.suffix == ".json"
        else yaml.safe_dump(content, sort_keys=False)
    )
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
