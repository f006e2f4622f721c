"""Where experiments are stored, as an operator sets it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ByteSize, ConfigDict, Field, SecretStr

# Below this, a handful of records would fill the spool.
LEAST_SPOOL = 64 * 2**10
DEFAULT_SPOOL = 64 * 2**20
DEFAULT_RETENTION = 90.0


class ExperimentStore(BaseModel):
    """Where experiments are stored."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    state: Path = Path("state")
    """The folder for the spool, the key of prompts' fingerprints and, without a url, the database."""
    url: SecretStr | None = None
    """The database: `sqlite:////folder/file.db` or `postgresql://user@host/name`; unset is the file
    `experiments.db` in the state folder."""
    spool: ByteSize = Field(default=ByteSize(DEFAULT_SPOOL), ge=LEAST_SPOOL)
    """Bytes of records that wait on disk while the database is away; beyond them responses go unrecorded and
    feedback is refused."""
    retention: float | None = Field(default=DEFAULT_RETENTION, gt=0, allow_inf_nan=False)
    """Days after which responses and feedback are deleted; unset keeps them."""

    @property
    def location(self) -> str:
        """The database's URL."""
        if self.url is not None:
            return self.url.get_secret_value()
        return f"sqlite:///{self.state / 'experiments.db'}"

    @property
    def folder(self) -> Path:
        """The spool's folder."""
        return self.state / "spool"
