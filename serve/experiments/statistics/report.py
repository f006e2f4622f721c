"""What an experiment has shown so far, as data. Every rendering of it reads this and nothing else."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from serve.experiments.statistics.guardrails import Status

Decision = Literal["control", "better", "worse", "undecided"]


class Part(BaseModel):
    """No unknown keys, no NaN; what is not known is null."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ArmReport(Part):
    """units: those that saw this arm only. responses: of these units."""

    name: str
    model: str
    share: float
    units: int
    responses: int


class ArmOnMetric(Part):
    """One arm on one metric, against the control; the control's own row has a mean and no effect.

    mean: of the means of ``units`` units, as they are. effect: arm minus control within versions, after CUPED
    where ``variance_left`` is given, the share of the variance that CUPED leaves. low, high, p_value: what
    one look at the end would say. always_valid_…: what holds however often it is looked at; None below 100
    units an arm. relative…: over the control's mean. decision: by the always-valid interval and the
    direction; of replays by the other one.
    """

    arm: str
    units: int
    mean: float | None = None
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    relative: float | None = None
    relative_low: float | None = None
    relative_high: float | None = None
    always_valid_low: float | None = None
    always_valid_high: float | None = None
    always_valid_p: float | None = None
    always_valid_relative_low: float | None = None
    always_valid_relative_high: float | None = None
    variance_left: float | None = None
    decision: Decision = "undecided"


class MetricReport(Part):
    """level: of its intervals, 0.95 where alpha is 0.05 and one arm is compared. unit: s, tokens or none."""

    name: str
    direction: Literal["higher", "lower"]
    kind: Literal["binary", "numeric"]
    guardrail: float | None
    unit: str
    primary: bool
    level: float
    arms: list[ArmOnMetric]


class Point(Part):
    """The effect with its always-valid interval on what was known at ``moment``, seconds since 1970."""

    moment: float
    arm: str
    effect: float
    low: float
    high: float


class Guardrail(Part):
    """value: relative worsening so far, limit: the one that must not be exceeded."""

    metric: str
    arm: str
    status: Status
    limit: float
    value: float | None


class TaskRow(Part):
    """One metric of one arm on responses of one task (``base``: the router trusted no expert). low, high: of
    the effect, by one look at the end, not corrected for the number of tasks: a hint and no decision."""

    task: str
    arm: str
    metric: str
    units: int
    mean: float
    effect: float | None = None
    low: float | None = None
    high: float | None = None


class ShadowRow(Part):
    """Requests that two arms answered. task: the one that the router saw, ``base`` where it trusted none,
    None in the row of all. agreement: the share of equal texts; low, high: its Wilson interval, in which
    every pair counts as an observation of its own. latency: mean seconds as clients had them;
    shadow_latency: of the unseen answers, without their waiting."""

    task: str | None
    pairs: int
    agreement: float | None = None
    low: float | None = None
    high: float | None = None
    latency: float | None = None
    shadow_latency: float | None = None


class ShadowReport(Part):
    """An arm that answers unseen. rows: all pairs, then by task where there are several. failed: unseen
    answers that ended by their own fault."""

    arm: str
    failed: int
    rows: list[ShadowRow]


class SampleRatio(Part):
    """alarm: units fell to the arms otherwise than by their shares; then no other figure means anything."""

    p_value: float
    alarm: bool


class Excluded(Part):
    """mixed: units that saw several arms. shadows: answers that nobody saw. unmatched: feedback on responses
    that are not recorded."""

    mixed: int = 0
    shadows: int = 0
    unmatched: int = 0


class Verdict(Part):
    """What to do about one arm, in a word and in a sentence. needed: units still missing, at a guess."""

    arm: str
    verdict: Literal["switch", "keep", "stop", "wait", "distrust"]
    text: str
    needed: int | None = None


class Report(Part):
    """One experiment. design: randomised by traffic, or paired: every arm answered the same prompts.
    over_time: by metric. moment: when this was computed; started, latest: first and last response. canary:
    where it is, in words."""

    name: str
    version: int
    state: str
    design: Literal["randomised", "paired"]
    unit: str
    control: str
    alpha: float
    moment: float
    started: float | None
    latest: float | None
    arms: list[ArmReport]
    metrics: list[MetricReport]
    over_time: dict[str, list[Point]] = Field(default_factory=dict)
    guardrails: list[Guardrail] = Field(default_factory=list)
    tasks: list[TaskRow] = Field(default_factory=list)
    shadow: ShadowReport | None = None
    srm: SampleRatio | None
    excluded: Excluded = Excluded()
    verdicts: list[Verdict]
    decision: str
    canary: str | None = None
    notes: list[str] = Field(default_factory=list)


UNITS = {"latency": "s", "first_token": "s", "completion_tokens": "tokens"}
