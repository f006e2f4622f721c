"""What is written down of an experiment: who was shown which arm, what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Served:
    """One response of an arm.

    response: the id that clients see (``chatcmpl-…``, ``cmpl-…``). experiment, version: which experiment,
    numbered anew by every change. unit: hash of the unit of assignment. task: the expert that weighs most,
    None where the router trusted none. metrics: the automatic ones, by name. moment: seconds since 1970.
    prompt: hash, or text where the experiment stores prompts. shadow: nobody saw it; it answers beside
    ``beside``. text: of shadowed answers alone.
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
class Feedback:
    """What somebody said of one response: value by metric's name. key: makes it idempotent; the same key
    again replaces what it said before."""

    response: str
    key: str
    moment: float
    metrics: dict[str, float]
