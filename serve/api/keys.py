"""Which API keys are known, and whose a request's is."""

from __future__ import annotations

import hmac
import logging
from pathlib import Path

from pydantic import SecretStr

from compress.errors import InputError
from serve.keysfile import Key, Role, digest, read_keys

log = logging.getLogger(__name__)

# The names of the keys that stand in the settings; no name in a file can have the space.
FIXED: dict[Role, str] = {"user": "the api_key", "admin": "the admin_key"}


class Keys:
    """The keys of the settings and of a file, which is read again whenever it has changed.

    Raises InputError when the file is broken or missing at the start; later its last good keys stay.
    """

    def __init__(
        self, file: Path | None = None, user: SecretStr | None = None, admin: SecretStr | None = None
    ) -> None:
        secrets: dict[Role, SecretStr | None] = {"user": user, "admin": admin}
        self._fixed = [
            Key.model_construct(
                name=FIXED[role], role=role, sha256=digest(secret.get_secret_value().encode())
            )
            for role, secret in secrets.items()
            if secret is not None
        ]
        self._file = file
        self._stamp = self._changed()
        self._read = [] if file is None else read_keys(file)

    @property
    def open(self) -> bool:
        """Whether everybody may ask. A keys file without a key lets in nobody: they were revoked."""
        return self._file is None and not any(key.role == "user" for key in self._fixed)

    def configured(self, role: Role) -> bool:
        """Whether any key has that role."""
        return any(key.role == role for key in self._known())

    def owner(self, authorization: bytes, role: Role) -> str | None:
        """The name of the key in an Authorization header; None for one that is not known in that role."""
        scheme, _, secret = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        given, found = digest(secret.strip()), None
        for key in self._known():
            # No key ends the search, or its time would tell how far a guess has come.
            if hmac.compare_digest(key.sha256, given) and key.role == role:
                found = key.name
        return found

    def _known(self) -> list[Key]:
        if self._file is not None and (stamp := self._changed()) != self._stamp:
            self._stamp = stamp
            try:
                self._read = read_keys(self._file)
            except InputError as error:
                log.error("%s; the keys read before stay in force", error)
            else:
                log.info("%s: %d keys", self._file, len(self._read))
        return [*self._fixed, *self._read]

    def _changed(self) -> tuple[int, ...] | None:
        """What differs between two versions of the file, for a rename too."""
        try:
            status = self._file.stat() if self._file else None
        except OSError:
            return None
        return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)
