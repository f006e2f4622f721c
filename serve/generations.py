"""One bundle's contents in memory, and what may be wrong with asking for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from serve.api.surface import EngineSurface


class Servant(EngineSurface, Protocol):
    """An engine that serves one generation."""

    @property
    def running(self) -> int:
        """Requests that it is answering."""

    def finish(self) -> None:
        """End once all that has begun has ended; returns then."""

    def stop(self) -> None:
        """End now: what has begun fails."""


Engine = TypeVar("Engine", bound=Servant)
# (bundle, number of the generation, the engine that serves meanwhile) -> an engine that has answered.
Make = Callable[[Path, int, Engine | None], Engine]


class LoadBusyError(RuntimeError):
    """Another bundle is being loaded."""


class GenerationConflictError(RuntimeError):
    """The generation that serves is not the one that was expected."""


class UnknownGenerationError(LookupError):
    """No generation of that number is loaded."""


class GenerationStateError(RuntimeError):
    """The generation is not in the state that this needs."""


@dataclass(eq=False)
class Generation(Generic[Engine]):
    """One bundle's contents. leases: requests that have chosen it and may not have reached it yet. explicit:
    held because somebody asked for that, and not for an experiment's sake."""

    engine: Engine
    bundle: Path
    number: int
    explicit: bool = False
    leases: int = 0
    retired: bool = False

    @property
    def digest(self) -> str:
        """The bundle's."""
        return self.engine.digest

    @property
    def requests(self) -> int:
        """Requests that still need it."""
        return max(self.leases, self.engine.running)
