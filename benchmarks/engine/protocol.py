"""What a contender is asked and what it answers. Standard library only: peers in environments of their
own import it too."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, Protocol

Answers = Literal["one model", "one expert", "any mixture"]
"""What a contender can serve beside each other: nothing but one model, one whole expert a request, or
the mixture that a request asks for. The first runs every workload, as the price of having no experts."""


@dataclass(frozen=True)
class Request:
    """prompt: token ids. new_tokens: made exactly, whatever they are. mixture: task -> weight; empty is
    the merged base, which peers stand in for with their base without an adapter. arrival: seconds after
    the workload's beginning."""

    prompt: list[int]
    new_tokens: int
    mixture: dict[str, float] = field(default_factory=dict)
    arrival: float = 0.0

    @property
    def task(self) -> str | None:
        """The expert that answers alone; None for the merged base."""
        return next(iter(self.mixture), None)

    @property
    def whole(self) -> bool:
        """One expert at most, at weight 1: what servers of plain adapters can do."""
        return self.mixture in ({}, {self.task: 1.0})


Workload = Sequence[Request]


@dataclass(frozen=True)
class Result:
    """seconds: from the workload's beginning to the last token. first_token: seconds a request waited
    for its first token since its arrival. inter_token: seconds between a request's tokens, all requests
    together. outputs: the token ids of each request."""

    seconds: float
    tokens: int
    first_token: list[float]
    inter_token: list[float]
    outputs: list[list[int]]

    @property
    def rate(self) -> float:
        """New tokens a second."""
        return self.tokens / self.seconds


class Contender(Protocol):
    """Loaded once, then asked for many workloads in turns with others."""

    name: str
    answers: Answers

    def run(self, workload: Workload) -> Result: ...

    def close(self) -> None: ...


class Progress:
    """Tokens of a running workload with the time at which each was there."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.outputs: list[list[int]] = [[] for _ in workload]
        self.times: list[list[float]] = [[] for _ in workload]
        self.start = time.perf_counter()

    def take(self, number: int, tokens: Sequence[int], at: float | None = None) -> bool:
        """Note tokens of request ``number``, those beyond its length not; True when it has them all."""
        wanted = self.workload[number].new_tokens - len(self.outputs[number])
        kept = list(tokens)[:wanted]
        self.outputs[number] += kept
        self.times[number] += [time.perf_counter() if at is None else at] * len(kept)
        return wanted <= len(kept)

    def arrived(self, waiting: Sequence[int]) -> list[int]:
        """Which of the ``waiting`` requests are there by now, the earliest first."""
        now = time.perf_counter() - self.start
        there = [number for number in waiting if self.workload[number].arrival <= now]
        return sorted(there, key=lambda number: self.workload[number].arrival)

    def sleep_until_next(self, waiting: Sequence[int]) -> None:
        """Wait for the earliest of the ``waiting`` requests."""
        soonest = min(self.workload[number].arrival for number in waiting)
        time.sleep(max(0.0, self.start + soonest - time.perf_counter()))

    def result(self) -> Result:
        """The figures. Raises RuntimeError when a request did not get all its tokens."""
        for request, output in zip(self.workload, self.outputs, strict=True):
            if len(output) != request.new_tokens:
                raise RuntimeError(f"{len(output)} tokens instead of {request.new_tokens}")
        return Result(
            seconds=max(times[-1] for times in self.times) - self.start,
            tokens=sum(map(len, self.outputs)),
            first_token=[
                times[0] - self.start - request.arrival
                for request, times in zip(self.workload, self.times, strict=True)
            ],
            inter_token=[later - sooner for times in self.times for sooner, later in pairwise(times)],
            outputs=self.outputs,
        )


def refusal(contender: Contender, workload: Workload) -> str | None:
    """Why this contender cannot run the workload; None when it can."""
    if contender.answers == "one expert" and not all(request.whole for request in workload):
        return "serves one whole expert a request, no mixture"
    return None
