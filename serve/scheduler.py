"""Who runs when: waiting -> running -> finished. Pure bookkeeping, no tensors."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False)
class Sequence(Generic[T]):
    """One answer in the making. ``row`` is its slot while it runs; ``payload`` the engine's own."""

    payload: T
    state: State = State.WAITING
    row: int = -1


@dataclass(frozen=True)
class Move:
    """Row ``source`` must be copied to ``target``, which became free."""

    source: int
    target: int


@dataclass
class Scheduler(Generic[T]):
    """First come, first served over ``slots`` rows; running sequences fill rows 0..b-1 without gaps.

    Each engine step prefills at most one waiting sequence and then decodes all running ones, so a
    newcomer never waits for others to finish while a row is free, and never stalls them longer than
    its own prefill.
    """

    slots: int
    waiting: deque[Sequence[T]] = field(default_factory=deque)
    running: list[Sequence[T]] = field(default_factory=list)

    def add(self, sequence: Sequence[T]) -> None:
        """Queue a new sequence."""
        self.waiting.append(sequence)

    def admit(self) -> Sequence[T] | None:
        """The next sequence to prefill, now running in the first free row; None if none or full."""
        if not self.waiting or len(self.running) >= self.slots:
            return None
        sequence = self.waiting.popleft()
        sequence.state, sequence.row = State.RUNNING, len(self.running)
        self.running.append(sequence)
        return sequence

    def finish(self, sequence: Sequence[T]) -> Move | None:
        """Remove a sequence, finished or cancelled; the last row moves into the gap it leaves."""
        if sequence.state is State.WAITING:
            self.waiting.remove(sequence)
            sequence.state = State.FINISHED
            return None
        if sequence.state is State.FINISHED:
            return None
        row, last = sequence.row, self.running.pop()
        sequence.state, sequence.row = State.FINISHED, -1
        if last is sequence:
            return None
        self.running[row] = last
        move = Move(source=last.row, target=row)
        last.row = row
        return move

    def clear(self) -> None:
        """Everybody leaves at once."""
        for sequence in (*self.waiting, *self.running):
            sequence.state, sequence.row = State.FINISHED, -1
        self.waiting.clear()
        self.running.clear()

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running
