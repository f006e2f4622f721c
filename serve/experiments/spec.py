"""An experiment as data: its arms, who takes part, what is measured, and when it has to stop."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from router.policy import Policy

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Unit = Literal["user", "session", "request"]
# Measured of every response, whoever asks; anything else is told by POST /v1/feedback.
AUTOMATIC = {
    "latency": "lower",  # seconds from the request's arrival to its last token
    "first_token": "lower",  # seconds from the request's arrival to its first token
    "completion_tokens": None,
    "abstention": None,  # 1 where the router trusted no expert
    "error": "lower",  # 1 where the request failed on the server's side
}


class Strict(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Arm(Strict):
    """What answers a share of the traffic.

    model: what stands behind ``NAME:`` in a model id: dynamic, static or a task. policy: of the router,
    instead of the bundle's own; for dynamic alone. digest: of the bundle that answers, where it is not the
    one that serves. generation: a loaded one, instead of its bundle's digest. share: of the units that take
    part, 0 to 1; the arms' shares sum to 1.
    """

    name: Name
    model: str = "dynamic"
    policy: Policy | None = None
    digest: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    generation: int | None = Field(None, ge=1)
    share: float = Field(ge=0, le=1, allow_inf_nan=False)

    @property
    def routed(self) -> bool:
        """Whether the router chooses its weights."""
        return self.model == "dynamic"

    @model_validator(mode="after")
    def _policy_of_the_router(self) -> Arm:
        if self.digest is not None and self.generation is not None:
            raise ValueError(
                f"arm {self.name!r}: digest and generation both say which bundle; give one of them"
            )
        if self.policy is not None and not self.routed:
            raise ValueError(f"arm {self.name!r}: a policy needs model: dynamic, not {self.model}")
        return self


class Metric(Strict):
    """What arms are compared by: one of ``AUTOMATIC``, or a name that feedback gives values to.

    direction: which way is better. kind: binary values are 0 or 1. guardrail: the relative worsening against
    the control that must not be exceeded, as 0.1 for a tenth; None where the metric guards nothing.
    """

    name: Name
    direction: Literal["higher", "lower"] = "higher"
    kind: Literal["binary", "numeric"] = "numeric"
    guardrail: float | None = Field(None, ge=0, allow_inf_nan=False)


class Eligibility(Strict):
    """Who takes part: a share of the units, and only requests that carry these headers with these values."""

    share: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    headers: dict[str, str] = {}


class Shadow(Strict):
    """The arm that answers too, unseen: a share of the requests that other arms answer, ``most`` at once."""

    arm: Name
    share: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    most: int = Field(4, ge=1)


class Canary(Strict):
    """Shares of ``arm`` in turn, each kept for ``minutes`` and until it has ``units`` of the arm; 0 as soon
    as a guardrail breaks. The control keeps a share at every step."""

    arm: Name
    steps: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field((0.01, 0.05, 0.2, 0.5), min_length=1)
    minutes: float = Field(10, gt=0, allow_inf_nan=False)
    units: int = Field(100, ge=1)


class Experiment(Strict):
    """One experiment. The first metric is the one that decides; control: the arm that others are compared
    with, by default the first. Experiments of one layer share its traffic, those of different layers are
    assigned independently. salt: changes all assignments; by default the experiment's name."""

    name: Name
    arms: tuple[Arm, ...] = Field(min_length=2)
    control: Name | None = None
    unit: Unit = "user"
    salt: str | None = None
    layer: Name = "weights"
    eligible: Eligibility = Eligibility(share=1.0)
    metrics: tuple[Metric, ...] = Field(min_length=1)
    start: AwareDatetime | None = None
    stop: AwareDatetime | None = None
    alpha: float = Field(0.05, gt=0, lt=0.5)
    shadow: Shadow | None = None
    canary: Canary | None = None
    store_prompts: bool = False

    @property
    def baseline(self) -> str:
        """The control's name."""
        return self.control or self.arms[0].name

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def running(self, now: datetime) -> bool:
        """Whether ``now`` lies between start and stop."""
        return (self.start is None or self.start <= now) and (self.stop is None or now < self.stop)

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        names = [arm.name for arm in self.arms]
        for kind, own in (("arm", names), ("metric", [metric.name for metric in self.metrics])):
            for name in own:
                if own.count(name) > 1:
                    raise ValueError(f"{kind} {name!r} is given twice")
        total = math.fsum(arm.share for arm in self.arms)
        if not math.isclose(total, 1, abs_tol=1e-9):
            raise ValueError(f"the arms' shares must sum to 1, and they sum to {total:g}")
        for kind, named in (
            ("control", self.control),
            ("shadow.arm", self.shadow and self.shadow.arm),
            ("canary.arm", self.canary and self.canary.arm),
        ):
            if named is not None and named not in names:
                raise ValueError(f"{kind}: there is no arm {named!r}; the arms are {', '.join(names)}")
        if self.start and self.stop and self.stop <= self.start:
            raise ValueError("stop must lie behind start")
        return self
