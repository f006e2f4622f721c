"""Which experiments an endpoint begins with."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Experiments(BaseModel):
    """A/B tests of arms."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    file: Path | None = None
    """YAML with experiments to begin at the start, as `docs/experiments.md` has them; those that are kept
    from an earlier start stay as they stand."""
