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
class Entry(Generic[T]):
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
    """First come, first served over ``slots`` rows; running entrys fill rows 0..b-1 without gaps.

    Each engine step prefills at most one waiting entry and then decodes all running ones, so a
    newcomer never waits for others to finish while a row is free, and never stalls them longer than
    its own prefill.
    """

    slots: int
    waiting: deque[Entry[T]] = field(default_factory=deque)
    running: list[Entry[T]] = field(default_factory=list)

    def add(self, entry: Entry[T]) -> None:
        """Queue a new entry."""
        self.waiting.append(entry)

    def admit(self) -> Entry[T] | None:
        """The next entry to prefill, now running in the first free row; None if none or full."""
        if not self.waiting or len(self.running) >= self.slots:
            return None
        entry = self.waiting.popleft()
        entry.state, entry.row = State.RUNNING, len(self.running)
        self.running.append(entry)
        return entry

    def finish(self, entry: Entry[T]) -> Move | None:
        """Remove a entry, finished or cancelled; the last row moves into the gap it leaves."""
        if entry.state is State.WAITING:
            self.waiting.remove(entry)
            entry.state = State.FINISHED
            return None
        if entry.state is State.FINISHED:
            return None
        row, last = entry.row, self.running.pop()
        entry.state, entry.row = State.FINISHED, -1
        if last is entry:
            return None
        self.running[row] = last
        move = Move(source=last.row, target=row)
        last.row = row
        return move

    def clear(self) -> None:
        """Everybody leaves at once."""
        for entry in (*self.waiting, *self.running):
            entry.state, entry.row = State.FINISHED, -1
        self.waiting.clear()
        self.running.clear()

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running
