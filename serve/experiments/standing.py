"""One experiment as it stands on an endpoint: its version, its state, and whose buckets are whose."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from compress.errors import InputError
from serve.experiments import assignment, canary
from serve.experiments.assignment import BUCKETS, FREE, Allocation
from serve.experiments.records import Change, State
from serve.experiments.spec import Arm, Experiment


@dataclass(frozen=True)
class Standing:
    """changed, began: seconds since 1970; began is None before it first ran. arms: allocation of the
    experiment's buckets. traffic: of its layer's, to its own name or to nobody."""

    experiment: Experiment
    version: int
    state: State
    changed: float
    reason: str
    began: float | None
    arms: Allocation
    traffic: Allocation

    @property
    def name(self) -> str:
        return self.experiment.name

    @property
    def salt(self) -> str:
        return salt(self.experiment)

    def takes(self, unit: str) -> bool:
        """Whether the unit lies in the experiment's share of the layer's traffic."""
        bucket = assignment.layer_bucket(self.experiment.layer, unit)
        return self.traffic.labels[bucket] == self.name

    def arm(self, unit: str) -> Arm:
        """The unit's arm."""
        return self.experiment.arm(self.arms.labels[assignment.arm_bucket(self.salt, unit)])

    def due(self, now: float) -> Standing:
        """The same, in the state that its times ask for; a state never goes back."""
        start, stop = _seconds(self.experiment.start), _seconds(self.experiment.stop)
        found = self
        if found.state == "scheduled" and (start is None or start <= now):
            found = replace(found, state="running", began=now, changed=now, reason="its time had come")
        if found.state == "running" and stop is not None and stop <= now:
            found = replace(found, state="stopped", changed=now, reason="its time was over")
        return found

    @property
    def canary(self) -> str | None:
        """Where its canary is, in words; None without one."""
        return canary.line(self.experiment, self.state, self.changed, self.reason)

    @property
    def next_turn(self) -> float | None:
        """When its times next change its state, in seconds since 1970; None where they do not."""
        if self.state == "scheduled":
            return _seconds(self.experiment.start)
        return _seconds(self.experiment.stop) if self.state == "running" else None

    def kept(self) -> Change:
        """All of it, to be kept."""
        return Change(
            name=self.name,
            version=self.version,
            state=self.state,
            definition=self.experiment.model_dump_json(),
            changed=self.changed,
            reason=self.reason,
            began=self.began,
            arms=json.dumps(self.arms.runs),
            traffic=json.dumps(self.traffic.runs),
        )

    @classmethod
    def of(cls, kept: Change) -> Standing:
        """What was kept. Raises InputError for what no server of this version has written."""
        try:
            arms, traffic = (Allocation(tuple((str(label), int(count)) for label, count in json.loads(text)))
                             for text in (kept.arms, kept.traffic))  # fmt: skip
            experiment = Experiment.model_validate_json(kept.definition)
        except (ValueError, TypeError) as error:
            raise InputError(f"the kept experiment {kept.name!r} cannot be read: {error}") from error
        return cls(experiment, kept.version, kept.state, kept.changed, kept.reason, kept.began, arms, traffic)


def begun(experiment: Experiment, others: Iterable[Standing], now: float, reason: str) -> Standing:
    """The experiment's first version, with traffic that ``others`` of its layer leave free.

    Raises InputError where they do not leave enough, and as ``canary.opening``.
    """
    experiment = canary.opening(experiment)
    arms = assignment.allocate(assignment.buckets({arm.name: arm.share for arm in experiment.arms}))
    first = Standing(experiment, 1, "scheduled", now, reason, None, arms, _traffic(experiment, others, None))
    return replace(first.due(now), reason=reason)


def altered(
    standing: Standing, experiment: Experiment, others: Iterable[Standing], now: float, reason: str
) -> Standing:
    """The next version: as few units as possible change arms or join.

    Raises InputError for a change that would mix different things under one name, or where the layer has not
    enough traffic left; before it runs, as ``canary.opening``.
    """
    if standing.state == "running":
        _check_change(standing.experiment, experiment)
    else:
        experiment = canary.opening(experiment)
    same = salt(standing.experiment) == salt(experiment)
    sizes = assignment.buckets({arm.name: arm.share for arm in experiment.arms})
    arms = assignment.allocate(sizes, standing.arms if same else None)
    traffic = _traffic(
        experiment, others, standing if standing.experiment.layer == experiment.layer else None
    )
    changed = replace(
        standing,
        experiment=experiment,
        version=standing.version + 1,
        changed=now,
        reason=reason,
        arms=arms,
        traffic=traffic,
    )
    return replace(changed.due(now), reason=reason)


def salt(experiment: Experiment) -> str:
    """What its units' arms are hashed with."""
    return experiment.name if experiment.salt is None else experiment.salt


def _traffic(experiment: Experiment, others: Iterable[Standing], before: Standing | None) -> Allocation:
    name, layer = experiment.name, experiment.layer
    beside = [one for one in others if one.experiment.layer == layer and _meet(one.experiment, experiment)]
    taken = [False] * BUCKETS
    for one in beside:
        for bucket, label in enumerate(one.traffic.labels):
            taken[bucket] |= label != FREE
    wanted = round(experiment.eligible.share * BUCKETS)
    lost = before is not None and any(
        label == name and gone for label, gone in zip(before.traffic.labels, taken, strict=True)
    )
    found = None if lost else assignment.claim(name, wanted, taken, before.traffic if before else None)
    if found is None:
        free, names = taken.count(False) / BUCKETS, ", ".join(repr(one.name) for one in beside)
        if lost:
            raise InputError(
                f"experiment {name!r} would share units of layer {layer!r} with {names}, which come to run at"
                " the same time; stop one of them, or let this one end earlier"
            )
        raise InputError(
            f"experiment {name!r} asks for {experiment.eligible.share:g} of layer {layer!r}, and {names}"
            f" leave {free:g} of it; lower eligible.share, stop one of them, or use another layer"
        )
    return found


def _meet(one: Experiment, other: Experiment) -> bool:
    """Whether there is a moment at which both run."""
    starts = [moment for moment in (_seconds(one.start), _seconds(other.start)) if moment is not None]
    stops = [moment for moment in (_seconds(one.stop), _seconds(other.stop)) if moment is not None]
    return not starts or not stops or max(starts) < min(stops)


def _check_change(old: Experiment, new: Experiment) -> None:
    before, after = ([arm.name for arm in one.arms] for one in (old, new))
    why = "; stop it, and start another experiment"
    for name in before:
        if name not in after:
            raise InputError(
                f"arm {name!r} cannot be taken out while {old.name!r} runs: give it share 0{why}"
            )
    for arm in new.arms:
        if arm.name not in before:
            raise InputError(f"arm {arm.name!r} cannot be added while {old.name!r} runs{why}")
        if arm.model_copy(update={"share": 0.0}) != old.arm(arm.name).model_copy(update={"share": 0.0}):
            raise InputError(f"arm {arm.name!r} can only change its share while {old.name!r} runs{why}")
    free = {"arms", "eligible", "canary", "stop"}
    for key in type(new).model_fields:
        if key not in free and getattr(old, key) != getattr(new, key):
            raise InputError(f"{key} cannot change while {old.name!r} runs: shares, canary and stop can{why}")
    if old.eligible.headers != new.eligible.headers:
        raise InputError(
            f"eligible.headers cannot change while {old.name!r} runs: shares, canary and stop can{why}"
        )


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
