"""What is written down of an experiment: who was shown which arm, what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

# In the order in which an experiment goes through them; it never goes back.
State = Literal["scheduled", "running", "stopped"]


@dataclass(frozen=True)
class Served:
    """One response of an arm.

    response: the id that clients see (``chatcmpl-…``, ``cmpl-…``). experiment, version: which experiment,
    numbered anew by every change. unit: hash of the unit of assignment. task: the expert to which the router
    gave most weight, ``base`` where it trusted none, None where it is not known. metrics: the automatic ones,
    by name. moment: seconds since 1970.
    prompt: hash, or text where the experiment stores prompts. shadow: nobody saw it; it answers beside
    ``beside``, and has the metrics ``agreement``, 1 where it says the same, and ``latency`` without waiting.
    text: of shadows and of answers that have one.
    """

    response: str
    experiment: str
    version: int
    arm: str
    unit: str
    task: str | None
    moment: float
    metrics: dict[str, float]
    prompt: str | None = None
    generation: int = 1
    shadow: bool = False
    beside: str | None = None
    text: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Routed:
    """The task of a response whose arm does not ask the router, told when it has been asked after all."""

    response: str
    experiment: str
    task: str


@dataclass(frozen=True)
class Feedback:
    """What somebody said of one response: value by metric's name. key: makes it idempotent; the same key
    again replaces what it said before."""

    response: str
    key: str
    moment: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Change:
    """One version of an experiment as it is kept: all that a server needs to go on with it after a restart.

    version: from 1, one more with every change. definition: a ``spec.Experiment`` as JSON. changed: seconds
    since 1970. reason: why it last changed, in somebody's words. began: when it first ran, None before that.
    arms, traffic: allocations of buckets as JSON, lists of [label, buckets].
    """

    name: str
    version: int
    state: State
    definition: str = field(repr=False)
    changed: float
    reason: str
    began: float | None
    arms: str = field(repr=False)
    traffic: str = field(repr=False)
