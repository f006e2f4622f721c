"""What may be changed while the endpoint runs, and from where."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Admin(BaseModel):
    """Switching bundles while requests are served."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    enabled: bool = False
    """Whether there are routes below /admin."""
    root: Path | None = None
    """The folder that bundles, checkpoints and prompts named in requests lie in; unset allows none."""
