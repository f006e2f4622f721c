"""What one answer is asked with and what comes back: shared by the API and the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are picked and when an answer ends.

    max_tokens: tokens to generate at most, >= 1. temperature: 0 = greedy. top_p: nucleus mass in
    [0, 1]. seed: None = not reproducible. stop: strings that end the answer and are left out of it.
    stop_token_ids: token ids that end it. ignore_eos: go on past the end-of-text token.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True)
class Target:
    """Which weights answer.

    dynamic: the router's mixture. static: the merged model. task: one expert, named by ``task``.
    mixture: the weights in ``mixture`` (task -> weight; empty = the shared base).
    """

    kind: Literal["dynamic", "static", "task", "mixture"]
    task: str | None = None
    mixture: Mapping[str, float] | None = None


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt to continue. prompt: token ids. routing_text: the user's plain text to route."""

    prompt: list[int]
    params: SamplingParams
    target: Target
    routing_text: str = ""


@dataclass(frozen=True)
class Routing:
    """Which weights answered and who chose them.

    mixture: task -> weight. source: what decided it. confidence: the router's highest calibrated
    probability in [0, 1], None where the router was not asked. arm: the experiment arm; without one
    the task's name, or the kind of target. generation: which version of the bundle's contents answered.
    """

    mixture: dict[str, float]
    source: Literal["router", "request", "model", "static"]
    confidence: float | None
    arm: str
    generation: int


@dataclass(frozen=True)
class Event:
    """One step of one answer.

    text: what it adds, possibly "". token_ids: the tokens it adds. finish_reason: set on the last
    event only; "length" when ``max_tokens`` ended the answer.
    """

    text: str
    token_ids: tuple[int, ...]
    routing: Routing
    finish_reason: Literal["stop", "length"] | None = None
