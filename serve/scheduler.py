"""Who runs when: waiting -> prefill -> decode -> finished or cancelled. Pure bookkeeping, no tensors."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")

# Rows share one length; rounding it up keeps shapes, and with them memory, from changing at every step.
LENGTH_STEP = 64
# Prompt tokens of a step whose logits are all needed, at most: a row of logits is as long as the vocabulary.
MOST_SCORED = 256
# How many times ``step_tokens`` one step may prefill, for the sake of more prompts than it holds up answers.
MOST_STEPS = 4


class State(StrEnum):
    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    FINISHED = "finished"
    CANCELLED = "cancelled"


@dataclass(eq=False)
class Entry(Generic[T]):
    """One answer in the making.

    prompt: its tokens to prefill, >= 1. longest: positions it may come to hold, prompt and answer.
    deadline: when it must have ended, on the caller's clock. done: prompt tokens whose keys and
    values are in the cache. row: its slot while it runs. turn: how many were admitted before it.
    scored: logits of the whole prompt are needed, not of its last token alone. background: it runs in turns
    of its own, and makes room for others. payload: the engine's own.
    """

    # Not shown: an error about an entry may be logged, and what a client sent must not be.
    payload: T = field(repr=False)
    prompt: int
    longest: int
    deadline: float | None = None
    scored: bool = False
    background: bool = False
    state: State = State.WAITING
    row: int = -1
    done: int = 0
    turn: int = 0

    @property
    def running(self) -> bool:
        return self.state in (State.PREFILL, State.DECODE)


@dataclass(frozen=True)
class Chunk(Generic[T]):
    """Prompt tokens ``start`` to ``stop`` of one entry."""

    entry: Entry[T]
    start: int
    stop: int

    @property
    def last(self) -> bool:
        return self.stop == self.entry.prompt


@dataclass(frozen=True)
class Step(Generic[T]):
    """One forward pass: one token of each entry in ``decode``, and the prompt tokens in ``prefill``."""

    decode: tuple[Entry[T], ...]
    prefill: tuple[Chunk[T], ...]

    def __bool__(self) -> bool:
        return bool(self.decode or self.prefill)


@dataclass(frozen=True)
class Move:
    """The cache's row ``source`` must be copied to ``target``, which became free."""

    source: int
    target: int


@dataclass
class Scheduler(Generic[T]):
    """First come, first served over ``slots`` rows and ``kv_bytes`` of keys and values.

    A row costs as much as the longest running entry may need, at ``position_bytes`` a position,
    because all rows share one length. Who does not fit yet is waited for and never overtaken, so
    nobody starves. A step decodes every entry that is so far and prefills, so that both together have
    ``step_tokens``; with p prompts in prefill beside fewer, a, answers, p / a times as many, at most
    MOST_STEPS times. One half is for the oldest prompt, which therefore always advances, the other for the
    shortest remaining ones, so that one long prompt stalls neither running answers nor short prompts.
    Of scored prompts a step takes MOST_SCORED tokens at most, which bounds the memory of their logits.
    Running entries fill rows 0..n-1 without gaps, those of the background the last ones: attention reads
    from the first row of a pass to its last.

    Background entries begin and advance in turns of their own. In between they keep their rows, until
    somebody else needs the room: see ``in_the_way``.
    """

    slots: int
    kv_bytes: int
    position_bytes: int = 1
    step_tokens: int = 256
    waiting: deque[Entry[T]] = field(default_factory=deque)
    aside: deque[Entry[T]] = field(default_factory=deque)
    running: list[Entry[T]] = field(default_factory=list)
    admitted: int = 0

    def cost(self, rows: int, longest: int) -> int:
        """Bytes of ``rows`` rows that may all become ``longest`` positions long."""
        return rows * round_up(longest) * self.position_bytes

    @property
    def longest(self) -> int:
        """Positions that every row must be able to hold."""
        return round_up(max((entry.longest for entry in self.running), default=0))

    @property
    def busy(self) -> bool:
        """Whether anybody is here who is no background entry."""
        return bool(self.waiting) or self.in_front > 0

    @property
    def in_front(self) -> int:
        """How many run that are no background entries; these have the first rows."""
        return sum(not entry.background for entry in self.running)

    def add(self, entry: Entry[T]) -> None:
        """Queue a new entry. Raises ValueError for one that would not fit even alone."""
        if self.cost(1, entry.longest) > self.kv_bytes:
            raise ValueError(
                f"{entry.longest} positions need {self.cost(1, entry.longest)} bytes of keys and values, "
                f"and there are {self.kv_bytes}"
            )
        (self.aside if entry.background else self.waiting).append(entry)

    @property
    def behind(self) -> bool:
        """Whether a background entry runs, or could."""
        if len(self.running) > self.in_front:
            return True
        return bool(self.aside) and self._fits(self.aside[0], self.running)

    def admit(self, background: bool = False) -> tuple[Entry[T], Move | None] | None:
        """The next entry, now in prefill, and the move that frees its row; None if none waits or fits."""
        queue = self.aside if background else self.waiting
        if not queue or not self._fits(queue[0], self.running):
            return None
        entry, end = queue.popleft(), len(self.running)
        row = end if background else self.in_front
        entry.state, entry.row, entry.turn = State.PREFILL, row, self.admitted
        self.admitted += 1
        self.running.append(entry)
        if row == end:
            return entry, None
        self.running[row], self.running[end] = entry, self.running[row]
        self.running[end].row = end
        return entry, Move(source=row, target=end)

    def in_the_way(self) -> Entry[T] | None:
        """The youngest background entry, if the first who waits would fit but for such entries."""
        others, behind = self.running[: self.in_front], self.running[self.in_front :]
        if not behind or not self.waiting or self._fits(self.waiting[0], self.running):
            return None
        return max(behind, key=lambda entry: entry.turn) if self._fits(self.waiting[0], others) else None

    def plan(self, background: bool = False) -> Step[T]:
        """What the next forward pass computes, for background entries or for the others. Changes nothing:
        ``advance`` does, once it has run."""
        present = self.running[self.in_front :] if background else self.running[: self.in_front]
        decode = tuple(entry for entry in present if entry.state is State.DECODE)
        prompts = [entry for entry in present if entry.state is State.PREFILL]
        # Large passes compute faster; they may hold up few answers for the sake of many, not the reverse.
        times = min(max(len(prompts) / len(decode), 1), MOST_STEPS) if decode else MOST_STEPS
        if background:
            times = 0.0  # the smaller the pass, the less is lost if it is given up, or waited for if not
        room = max(int(times * self.step_tokens) - len(decode), self.step_tokens // 4, 1)
        return Step(decode, tuple(_chunks(prompts, room)))

    def advance(self, step: Step[T]) -> None:
        """Record that ``step`` was computed; entries that have left meanwhile are passed over."""
        for chunk in step.prefill:
            entry = chunk.entry
            if entry.state is State.PREFILL:
                entry.done = chunk.stop
                if chunk.last:
                    entry.state = State.DECODE

    def finish(self, entry: Entry[T], state: State = State.FINISHED) -> list[Move]:
        """Remove an entry; its row is free at once, and is filled by the moves, in turn: by the last row of
        its kind, and where that left a gap before the background, by the last of all."""
        if entry.state is State.WAITING:
            (self.aside if entry.background else self.waiting).remove(entry)
            entry.state = state
            return []
        if not entry.running:
            return []
        gap, last = entry.row, len(self.running) - 1
        ends = [last] if entry.background else [self.in_front - 1, last]
        entry.state, entry.row = state, -1
        moves = []
        for row in ends:
            if row > gap:
                self.running[gap] = self.running[row]
                self.running[gap].row = gap
                moves.append(Move(source=row, target=gap))
                gap = row
        self.running.pop()
        return moves

    def expired(self, now: float) -> list[Entry[T]]:
        """Entries whose deadline has passed; they are not removed."""
        return [entry for entry in self.everybody if entry.deadline is not None and entry.deadline <= now]

    def clear(self) -> None:
        """Everybody leaves at once."""
        for entry in self.everybody:
            entry.state, entry.row = State.CANCELLED, -1
        self.waiting.clear()
        self.aside.clear()
        self.running.clear()

    @property
    def everybody(self) -> tuple[Entry[T], ...]:
        """Who runs, and who waits."""
        return (*self.running, *self.waiting, *self.aside)

    @property
    def idle(self) -> bool:
        return not self.everybody

    def _fits(self, entry: Entry[T], beside: Sequence[Entry[T]]) -> bool:
        """Whether there is a slot and memory for one more beside these."""
        longest = max(entry.longest, *(other.longest for other in beside), 0)
        return len(beside) < self.slots and self.cost(len(beside) + 1, longest) <= self.kv_bytes


def round_rows(rows: int) -> int:
    """Rows of a decode step of static shape: 1, 2, 4, or a multiple of 8, as vLLM captures its graphs."""
    return next((few for few in (1, 2, 4) if rows <= few), -(-rows // 8) * 8)


def round_up(length: int) -> int:
    """``length`` as rows are allocated."""
    return -(-length // LENGTH_STEP) * LENGTH_STEP


def _chunks(prompts: list[Entry[T]], room: int) -> Iterable[Chunk[T]]:
    if not prompts:
        return
    share = dict.fromkeys(map(id, prompts), 0)
    scored = MOST_SCORED
    oldest = min(prompts, key=lambda entry: entry.turn)
    by_length = sorted(prompts, key=lambda entry: (entry.prompt - entry.done, entry.turn))
    for entry, limit in ((oldest, -(-room // 2)), *((entry, room) for entry in by_length)):
        taken = min(limit, room, entry.prompt - entry.done - share[id(entry)])
        if entry.scored:
            taken = min(taken, scored)
            scored -= taken
        share[id(entry)] += taken
        room -= taken
    for entry in prompts:
        if share[id(entry)]:
            yield Chunk(entry, entry.done, entry.done + share[id(entry)])
