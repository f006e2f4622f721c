"""Which experiments an endpoint begins with, and where they are kept."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from serve.experiments.store.settings import ExperimentStore


class Experiments(BaseModel):
    """A/B tests of arms."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    file: Path | None = None
    """YAML with experiments to begin at the start, as `docs/experiments.md` has them; those that are kept
    from an earlier start stay as they stand."""
    store: ExperimentStore = Field(default_factory=ExperimentStore)
