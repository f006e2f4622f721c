"""The experiments of one endpoint: which of them a request takes part in, and how they begin, change, end.

The rule, since every arm changes the weights and a request can have one arm only: of the experiments that
run, in the order in which they began, a request takes part in the first that it is eligible for. Eligible
means: it carries the unit's id and the headers that are asked for, the unit lies in the experiment's share of
its layer, and what is loaded can answer every arm.

Within a layer those shares never overlap, so a unit meets at most one experiment of each, as Tang et al. 2010
have it. What an earlier layer takes, a later one does not see; but as layers are hashed independently, that
changes how many units the later one gets and not how they fall on arms.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from serve.experiments import assignment
from serve.experiments.canary import opening
from serve.experiments.definitions import unanswerable
from serve.experiments.exposure import Exposure
from serve.experiments.keeping import Keeper
from serve.experiments.loaded import Loaded
from serve.experiments.memory import Memory
from serve.experiments.records import Change, State
from serve.experiments.spec import Arm, Experiment
from serve.experiments.standing import Standing, altered, begun
from serve.experiments.store.errors import StoreError

log = logging.getLogger(__name__)

# Seconds between the beginnings of two experiments, at least: they are in an order.
STEP = 0.001
# Seconds after which another process' changes are looked for.
REFRESH = 5.0
RANK = {state: rank for rank, state in enumerate(get_args(State))}


class UnknownExperimentError(LookupError):
    """There is no experiment of that name."""


class ExperimentConflictError(RuntimeError):
    """The experiment is not in the state that this needs."""


@dataclass(frozen=True)
class Asked:
    """What of a request decides whether and how it takes part. request: its id. headers: by lower-case name.
    loaded: the generations that may answer, the one that serves first."""

    request: str
    user: str | None = field(default=None, repr=False)
    session: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    loaded: Sequence[Loaded] = (Loaded(),)


@dataclass(frozen=True)
class Choice:
    """An arm for a request. unit: the pseudonym of the unit of assignment."""

    experiment: Experiment
    version: int
    arm: Arm
    unit: str


class Board:
    """All calls belong to one event loop. declared: experiments to begin where the keeper knows none of that
    name; those it knows stay as they stand. Raises InputError where a layer has not enough traffic for them.

    Boards of several processes may share a keeper: what one changes the others see within ``REFRESH`` seconds
    in which somebody asks. clock: seconds since 1970. It may be set back: states only go forward, so nothing
    begins or ends twice.
    """

    def __init__(
        self,
        keeper: Keeper | None = None,
        declared: Sequence[Experiment] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.keeper = Memory() if keeper is None else keeper
        self._clock, self._turn, self._agreed = clock, float("inf"), 0.0
        self._declared = list(declared)
        self._running: list[Standing] = []
        self._standing: dict[str, Standing] = {}
        self._unsaved: dict[str, Standing] = {}
        self._told: set[tuple[str, int, str]] = set()
        self._lock = asyncio.Lock()
        # Set when any experiment changes, whoever changed it.
        self.changed = asyncio.Event()
        self.exposures: dict[str, Exposure] = {}
        self.passed: Counter[tuple[str, str]] = Counter()
        # Told whenever an experiment has another state or version.
        self.listen: Callable[[], None] = lambda: None
        try:
            self._adopt(self.keeper.experiments())
            for standing in self._to_begin():
                self.keeper.save_experiment(standing.kept())
                self._put(standing)
        except StoreError as error:
            log.error("%s; no experiment runs until it does", getattr(error, "why", error))

    def all(self) -> list[Standing]:
        """Every experiment as it stands now, in the order of their beginning; those to come are last."""
        self._tick()
        return sorted(self._standing.values(), key=_order)

    def get(self, name: str) -> Standing:
        """One experiment as it stands now. Raises UnknownExperimentError."""
        self._tick()
        if name not in self._standing:
            names = ", ".join(sorted(self._standing)) or "none"
            raise UnknownExperimentError(f"there is no experiment {name!r}; there are {names}")
        return self._standing[name]

    def choose(self, asked: Asked) -> Choice | None:
        """The arm that answers a request, None where it takes part in nothing; ``passed`` counts why."""
        self._tick()
        for standing in self._running:
            unit = _unit(standing.experiment, asked)
            why = self._why_not(standing, asked, unit)
            if why is not None:
                self.passed[standing.name, why] += 1
                continue
            assert unit is not None
            return Choice(
                standing.experiment,
                standing.version,
                standing.arm(unit),
                assignment.pseudonym(standing.salt, unit),
            )
        return None

    def expose(self, choice: Choice) -> None:
        """Count that a choice is being answered. One of an earlier version counts for nothing."""
        if self._standing[choice.experiment.name].version == choice.version:
            self.exposures[choice.experiment.name].add(choice.unit, choice.arm.name)

    def naming(self, digest: str) -> list[str]:
        """Names of the experiments, running or to come, of which an arm names that bundle."""
        named = [one for one in self._standing.values() if one.state != "stopped"]
        return [one.name for one in named if any(arm.digest == digest for arm in one.experiment.arms)]

    async def start(self, experiment: Experiment, reason: str) -> Standing:
        """Begin an experiment, or schedule it; what came of it, once it is kept.

        Raises InputError as ``begun``, ExperimentConflictError for a name that was used before: its records
        bear it.
        """
        async with self._lock:
            await self._refresh()
            if experiment.name in self._standing:
                state = self.get(experiment.name).state
                raise ExperimentConflictError(
                    f"experiment {experiment.name!r} is {state}; "
                    + ("choose another name" if state == "stopped" else "change it, or choose another name")
                )
            return await self._keep(begun(experiment, self._active(), self._clock(), reason))

    async def change(
        self, name: str, experiment: Experiment, reason: str, expected: int | None = None
    ) -> Standing:
        """The next version. While it runs only shares, canary and the time of its end may differ.

        expected: the version that this was decided on; None is whatever is kept now. Raises InputError as
        ``altered``, UnknownExperimentError, ExperimentConflictError once it has ended, or where another
        version than ``expected`` is kept.
        """
        async with self._lock:
            await self._refresh()
            standing = self._living(name)
            if expected not in (None, standing.version):
                raise ExperimentConflictError(
                    f"experiment {name!r} has version {standing.version}, not {expected}; look at it again,"
                    " then decide"
                )
            others = [one for one in self._active() if one.name != name]
            return await self._keep(altered(standing, experiment, others, self._clock(), reason))

    async def stop(self, name: str, reason: str) -> Standing:
        """End an experiment for good. Raises UnknownExperimentError, ExperimentConflictError if it has."""
        async with self._lock:
            await self._refresh()
            standing = self._living(name)
            ended = replace(standing, state="stopped", changed=self._clock(), reason=reason)
            return await self._keep(ended)

    @property
    def stale(self) -> bool:
        """Whether ``agree`` has something to do: time has changed a state, or another process may have."""
        return time.monotonic() >= self._agreed

    async def agree(self) -> None:
        """Keep what time has changed, and take over what other processes have. What fails is logged, and
        tried again the next time."""
        async with self._lock:
            self._agreed = time.monotonic() + REFRESH
            try:
                for name, standing in list(self._unsaved.items()):
                    await asyncio.to_thread(self.keeper.save_experiment, standing.kept())
                    if self._unsaved.get(name) == standing:
                        del self._unsaved[name]
                await self._refresh()
                for standing in self._to_begin():
                    await self._keep(standing)
            except Exception:
                log.exception("experiments could not be kept or read")

    async def _refresh(self) -> None:
        self._adopt(await asyncio.to_thread(lambda: list(self.keeper.experiments())))

    def _adopt(self, changes: Iterable[Change]) -> None:
        """Take over what is further than what the board has."""
        for change in changes:
            known = self._standing.get(change.name)
            further = (change.version, RANK[change.state])
            if known is None or further > (known.version, RANK[known.state]):
                self._put(Standing.of(change))
                self._unsaved.pop(change.name, None)

    def _to_begin(self) -> Iterator[Standing]:
        """What was declared and is not known, each to be kept before the next is asked for."""
        while self._declared:
            experiment = self._declared[0]
            known = self._standing.get(experiment.name)
            if known is None:
                begins = begun(experiment, self._active(), self._clock(), "declared")
                yield self._behind_others(begins)
            elif known.experiment != opening(experiment) or known.state == "stopped":
                told = (known.name, known.version, known.state)
                log.warning("experiment %s stays as it is kept: version %d, %s", *told)
            del self._declared[0]

    def _living(self, name: str) -> Standing:
        standing = self.get(name)
        if standing.state == "stopped":
            raise ExperimentConflictError(f"experiment {name!r} has ended: {standing.reason}")
        return standing

    def _active(self) -> list[Standing]:
        return [one for one in self.all() if one.state != "stopped"]

    async def _keep(self, standing: Standing) -> Standing:
        standing = self._behind_others(standing)
        await asyncio.to_thread(self.keeper.save_experiment, standing.kept())
        self._unsaved.pop(standing.name, None)
        self._put(standing)
        log.info(
            "experiment %s is %s, version %d: %s",
            standing.name, standing.state, standing.version, standing.reason,
        )  # fmt: skip
        return standing

    def _put(self, standing: Standing) -> None:
        before = self._standing.get(standing.name)
        if before is None or before.version != standing.version:
            self.exposures[standing.name] = Exposure()
        self._standing[standing.name] = standing
        self.changed.set()
        turns = [turn for one in self._standing.values() if (turn := one.next_turn) is not None]
        self._turn = min(turns, default=float("inf"))
        self._running = sorted((one for one in self._standing.values() if one.state == "running"), key=_order)
        self.listen()

    def _behind_others(self, standing: Standing) -> Standing:
        """Begun later than all others, whatever the clock says: their units must not change experiments."""
        before = self._standing.get(standing.name)
        if standing.began is None or (before is not None and before.began is not None):
            return standing
        latest = max((one.began for one in self._standing.values() if one.began is not None), default=0.0)
        return replace(standing, began=max(standing.began, latest + STEP))

    def _tick(self) -> None:
        now = self._clock()
        if now < self._turn:
            return
        for standing in sorted(self._standing.values(), key=lambda one: (one.next_turn or 0.0, one.name)):
            due = standing.due(now)
            if due != standing:
                due, self._agreed = self._behind_others(due), 0.0
                self._unsaved[due.name] = due
                self._put(due)

    def _why_not(self, standing: Standing, asked: Asked, unit: str | None) -> str | None:
        if unit is None:
            return "no_unit"
        wanted = standing.experiment.eligible.headers
        if any(asked.headers.get(name.lower()) != value for name, value in wanted.items()):
            return "headers"
        if not standing.takes(unit):
            return "outside"
        # For all arms alike: what only some arms answered would say nothing of the others.
        why = unanswerable(standing.experiment, asked.loaded)
        if why is None:
            return None
        told = (standing.name, asked.loaded[0].generation, why)
        if told not in self._told:
            self._told.add(told)
            log.warning("nobody takes part in experiment %s: %s", standing.name, why)
        return "unanswerable"


def _order(standing: Standing) -> tuple[float, str]:
    return float("inf") if standing.began is None else standing.began, standing.name


def _unit(experiment: Experiment, asked: Asked) -> str | None:
    return {"user": asked.user, "session": asked.session, "request": asked.request}[experiment.unit] or None
