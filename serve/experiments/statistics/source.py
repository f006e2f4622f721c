"""A report of what is stored: the definition as it stands, all versions' records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Protocol

from compress.errors import InputError
from serve.experiments.canary import line
from serve.experiments.records import Feedback, Served, State
from serve.experiments.spec import Experiment
from serve.experiments.statistics.analysis import analyse
from serve.experiments.statistics.report import Report


class Version(Protocol):
    """One version of an experiment. definition: an Experiment as JSON. changed: seconds since 1970. reason:
    why it last changed."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def state(self) -> State: ...
    @property
    def definition(self) -> str: ...
    @property
    def changed(self) -> float: ...
    @property
    def reason(self) -> str: ...


class Records(Protocol):
    """Where experiments are stored; calls may block."""

    def experiments(self) -> Iterable[Version]: ...
    def history(self, experiment: str, /) -> Sequence[Version]: ...
    def served(self, experiment: str, /) -> Iterable[Served]: ...
    def outcomes(self, experiment: str, /) -> Iterable[Feedback]: ...


def report_of(records: Records, name: str, *, now: float, before: str | None = None) -> Report:
    """The report of experiment ``name`` at ``now``, seconds since 1970.

    before: an earlier experiment with the same salt and unit, whose records of the same units serve as
    covariates. Its arms must not have differed, or what they did would be taken off the effect. Raises
    InputError for experiments that are not stored and as ``analyse``.
    """
    versions = records.history(name)
    if not versions:
        raise InputError(f"there is no experiment {name!r} in this store; {_stored(records)}")
    if before is not None and not records.history(before):
        raise InputError(f"there is no experiment {before!r} in this store; {_stored(records)}")
    last = versions[-1]
    experiment = Experiment.model_validate_json(last.definition)
    made = analyse(
        experiment,
        records.served(name),
        records.outcomes(name),
        now=now,
        shares={one.version: shares_of(one) for one in versions},
        before=None if before is None else (records.served(before), records.outcomes(before)),
        state=last.state,
    )
    return made.model_copy(update={"canary": line(experiment, last.state, last.changed, last.reason)})


def shares_of(version: Version) -> dict[str, float]:
    """Shares by arm."""
    # Not validated: what an older release stored may lack what a newer one demands, and its shares do not.
    return {arm["name"]: arm["share"] for arm in json.loads(version.definition)["arms"]}


def _stored(records: Records) -> str:
    names = [version.name for version in records.experiments()]
    return f"there are {', '.join(names)}" if names else "there is none at all"
