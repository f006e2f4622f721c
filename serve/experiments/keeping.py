"""Where experiments and their records are kept, as the endpoint sees it: two protocols.

Both raise errors of ``serve.experiments.store.errors`` for what cannot be done now.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry

from serve.experiments.records import Change, Feedback, Routed, Served


class Keeper(Protocol):
    """Keeps definitions. Both calls may block, and are made from a thread."""

    def experiments(self) -> Iterable[Change]:
        """The last version of every experiment that was ever saved."""
        ...

    def save_experiment(self, change: Change) -> None:
        """Keep it; the same version again changes its state. Safe when it returns. Raises VersionTakenError
        where that version is something else already."""
        ...


class Sink(Protocol):
    """Takes records."""

    def put(self, record: Served | Routed) -> None:
        """Keep it some time soon. Never blocks, never raises."""
        ...

    async def put_durably(self, record: Feedback) -> None:
        """Keep it; safe when it returns."""
        ...

    def find(self, response_id: str) -> Served | None:
        """The record of a response, from the moment that it was put. May block: for threads."""
        ...

    def fingerprint(self, prompt: str) -> str:
        """What is stored in place of a prompt: equal for equal prompts, and nobody can guess it back."""
        ...


class Storage(Keeper, Sink, Protocol):
    """Both, with records that can be read again."""

    @property
    def metrics(self) -> CollectorRegistry:
        """Counters to scrape."""

    def history(self, experiment: str) -> Sequence[Change]:
        """All versions of an experiment, the first one first. May block, as the two below."""
        ...

    def served(self, experiment: str) -> Iterable[Served]:
        """Its responses, the oldest first."""
        ...

    def outcomes(self, experiment: str) -> Iterable[Feedback]:
        """What was said of them, the oldest first."""
        ...
