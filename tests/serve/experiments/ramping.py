"""A process that has canaries, without a server: its board, its clock, and users who come."""

from __future__ import annotations

from itertools import count
from typing import Any

from serve.experiments.board import Asked, Board, Choice
from serve.experiments.canaries import Canaries
from serve.experiments.canary import share_of, with_share
from serve.experiments.memory import Memory
from serve.experiments.metrics import ExperimentMetrics
from serve.experiments.records import Change, Served
from serve.experiments.spec import Experiment
from serve.experiments.store.errors import VersionTakenError
from tests.serve.experiments.made import ARMS, Clock, experiment

NUMBERS = count()


def ramp(**keys: Any) -> Experiment:
    """An experiment whose arm ``new`` is a canary of four steps."""
    arms = [{**ARMS[0], "share": 1}, {**ARMS[1], "share": 0}]
    return experiment(arms=arms, canary={"arm": "new", "units": 5, **keys})


class Shared(Memory):
    """A memory of several processes: a version is what the first of them made of it."""

    def save_experiment(self, change: Change) -> None:
        held = self._history.get(change.name, {}).get(change.version)
        if held is not None and held.definition != change.definition:
            raise VersionTakenError("another server's change")
        super().save_experiment(change)


class Process:
    """A board with its canaries."""

    def __init__(
        self, storage: Any, clock: Clock, declared: Any = (), kind: type[Canaries] = Canaries
    ) -> None:
        self.storage, self.clock = storage, clock
        self.board = Board(storage, declared, clock)
        self.metrics = ExperimentMetrics(self.board)
        self.canaries = kind(self.board, storage, self.metrics, clock, clock)

    @property
    def share(self) -> float:
        return share_of(self.board.get("trial").experiment)

    @property
    def reason(self) -> str:
        return self.board.get("trial").reason

    def moves(self, move: str) -> float:
        found = self.metrics.registry.get_sample_value(
            "twinserve_experiment_canary_moves_total", {"experiment": "trial", "move": move}
        )
        return found or 0.0

    def visits(self, arm: str, wanted: int, failed: bool = False) -> None:
        """As many new users as bring ``wanted`` to an arm. failed: whether that arm's requests fail."""
        while wanted:
            number = next(NUMBERS)
            choice = self.board.choose(Asked(f"request-{number}", f"user-{number}"))
            assert choice is not None
            mine = choice.arm.name == arm
            self.served(choice, {"error": 1.0} if failed and mine else {"error": 0.0, "latency": 1.0})
            wanted -= mine

    def served(self, choice: Choice, metrics: dict[str, float]) -> None:
        """One more response."""
        told = (choice.version, choice.arm.name, choice.unit, None, self.clock.now, metrics)
        self.storage.put(Served(f"r{next(NUMBERS)}", "trial", *told))

    async def look(self, minutes: float = 0) -> float:
        self.clock.now += 60 * minutes
        await self.canaries.look()
        return self.share


async def patched(one: Process, share: float, reason: str = "by hand") -> None:
    """Give the canary's arm a share, as somebody would."""
    standing = one.board.get("trial")
    await one.board.change("trial", with_share(standing.experiment, share), reason)
