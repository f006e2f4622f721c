"""A canary's ramp: where it is and what comes next, from the experiment as it stands and what it has shown.

Nothing of a ramp is kept apart. Its place is the share that the arm has in the current version, so a restart,
another process and a change by hand all go on from there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from compress.errors import InputError
from serve.experiments.assignment import BUCKETS
from serve.experiments.records import State
from serve.experiments.spec import Canary, Experiment
from serve.experiments.statistics.figures import at, percent

# Begins the reason of every version that a canary made by itself.
BY_ITSELF = "canary: "
# Shares that differ by less are the same.
NEAR = 0.5 / BUCKETS


@dataclass(frozen=True)
class Evidence:
    """What the records say of a canary. units: distinct ones that its arm has had under the current version.
    broken: what is worse than it may be, in words. mismatch: units did not fall to the arms by their
    shares."""

    units: int
    broken: tuple[str, ...] = ()
    mismatch: bool = False


@dataclass(frozen=True)
class Move:
    """A next version. share: of the canary's arm, 0 where it is rolled back."""

    share: float
    reason: str


@dataclass(frozen=True)
class Hold:
    """Nothing to do yet. wrong: whether somebody should look why."""

    why: str
    wrong: bool = False


def check(experiment: Experiment) -> None:
    """Raise InputError where a canary could never end well."""
    canary = experiment.canary
    if canary is None:
        return
    if canary.arm == experiment.baseline:
        raise InputError(
            f"canary.arm: {canary.arm!r} is the control, which the canary is compared with; name another arm"
        )
    if all(metric.guardrail is None for metric in experiment.metrics):
        raise InputError(
            "canary: no metric has a guardrail, so a bad arm would go on to its last step; give one of them"
            " a guardrail, as latency: 0.25"
        )
    for earlier, later in zip(canary.steps, canary.steps[1:], strict=False):
        if later <= earlier + NEAR:
            raise InputError(f"canary.steps must rise, and {later:g} follows {earlier:g}")
    if canary.steps[0] < (1 - 1e-9) / BUCKETS:
        raise InputError(
            f"canary.steps: {canary.steps[0]:g} is below {1 / BUCKETS:g}, the finest share that is told apart"
        )


def opening(experiment: Experiment) -> Experiment:
    """The experiment as it begins: a canary's arm at its first step, the others sharing the rest.

    Raises InputError where the arm is declared with another share than 0 or that step, or the control with
    none.
    """
    canary = experiment.canary
    if canary is None:
        return experiment
    declared, first = experiment.arm(canary.arm).share, canary.steps[0]
    if declared > 0 and abs(declared - first) > NEAR:
        raise InputError(
            f"arm {canary.arm!r}: it is declared with the share {declared:g} and begins, as a canary, with"
            f" {first:g}; declare 0, the steps say the rest"
        )
    if experiment.arm(experiment.baseline).share == 0:
        raise InputError(
            f"arm {experiment.baseline!r}: the control of a canary needs a share, or there is nothing to"
            " compare with"
        )
    return with_share(experiment, first)


def with_share(experiment: Experiment, share: float) -> Experiment:
    """The same with another share for the canary's arm; the others keep their proportions."""
    canary = _canary(experiment)
    rest = math.fsum(arm.share for arm in experiment.arms if arm.name != canary.arm)

    def new(name: str, old: float) -> float:
        if name == canary.arm:
            return share
        # Somebody may have given all to the canary by hand.
        part = old / rest if rest > NEAR else float(name == experiment.baseline)
        return round(part * (1 - share), 12)

    arms = [arm.model_copy(update={"share": new(arm.name, arm.share)}) for arm in experiment.arms]
    return Experiment.model_validate({**dict(experiment), "arms": tuple(arms)})


def share_of(experiment: Experiment) -> float:
    """The share that the canary's arm has."""
    return experiment.arm(_canary(experiment).arm).share


def watched(experiment: Experiment, state: State) -> bool:
    """Whether there is a canary that is to be judged: it runs, and has traffic."""
    return experiment.canary is not None and state == "running" and share_of(experiment) > 0


def next_step(experiment: Experiment) -> float | None:
    """The first step above the share that the arm has; None behind the last."""
    share = share_of(experiment)
    return next((step for step in _canary(experiment).steps if step > share + NEAR), None)


def decide(experiment: Experiment, elapsed: float, seen: Evidence) -> Move | Hold:
    """What to do about a canary whose arm has traffic. elapsed: seconds since it has this share.

    A broken guardrail comes first: figures that cannot be trusted are no reason to go on with an arm that
    looks bad. One that is undecided does not hold the ramp. "ok" takes thousands of units where the arm has
    few of them, and more units are what the next step is for.
    """
    canary, share = _canary(experiment), share_of(experiment)
    if seen.broken:
        told = "; ".join(seen.broken)
        return Move(0.0, f"{BY_ITSELF}{canary.arm} rolled back from {percent(share)}: {told}")
    step = next_step(experiment)
    if step is None:
        return Hold("it has its last step")
    if seen.mismatch:
        return Hold("units did not fall to the arms by their shares, so no figure can be trusted", wrong=True)
    if elapsed < 60 * canary.minutes:
        return Hold(f"{_lasted(elapsed)} of {_lasted(60 * canary.minutes)} have passed")
    if seen.units < canary.units:
        return Hold(f"{seen.units:,} of {canary.units:,} {experiment.unit}s have come")
    return Move(
        step,
        f"{BY_ITSELF}{canary.arm} from {percent(share)} to {percent(step)} "
        f"({canary.steps.index(step) + 1} of {len(canary.steps)}): no guardrail broken after "
        f"{_lasted(elapsed)} and {seen.units:,} {experiment.unit}s",
    )


def line(experiment: Experiment, state: State, changed: float, reason: str) -> str | None:
    """Where a canary is, for people; None where there is none, or it has ended. changed, reason: of the
    current version."""
    canary = experiment.canary
    if canary is None or state == "stopped":
        return None
    share = share_of(experiment)
    if state == "scheduled":
        return f"canary: {canary.arm} will begin at {percent(share)}"
    where = f"canary: {canary.arm} at {percent(share)} since {at(changed)}"
    if share == 0:
        if reason.startswith(BY_ITSELF):
            return f"{where}, {reason.removeprefix(f'{BY_ITSELF}{canary.arm} ')}"
        return f"{where}; it goes on once it is given a share"
    step = next_step(experiment)
    if step is None:
        return f"{where}, no step is left"
    soonest = at(changed + 60 * canary.minutes)
    return f"{where}, next {percent(step)} not before {soonest} and {canary.units:,} {experiment.unit}s"


def plan(experiment: Experiment) -> str | None:
    """What a canary is going to do, for people; None where there is none."""
    canary = experiment.canary
    if canary is None:
        return None
    steps = ", ".join(percent(step) for step in canary.steps)
    kept = ", ".join(
        f"{metric.name} {percent(metric.guardrail)}"
        for metric in experiment.metrics
        if metric.guardrail is not None
    )
    return (
        f"canary: {canary.arm} at {steps}; each for {_lasted(60 * canary.minutes)} and {canary.units:,}"
        f" {experiment.unit}s at least; back to 0 % beyond the guardrails ({kept}) or where it fails more"
        " often"
    )


def _canary(experiment: Experiment) -> Canary:
    assert experiment.canary is not None
    return experiment.canary


def _lasted(seconds: float) -> str:
    for unit, length in (("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}s"
    return f"{seconds:.3g} seconds"
