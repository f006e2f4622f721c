"""Canaries move by themselves: a task beside the requests looks at what they have shown, and acts on it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from compress.errors import InputError
from serve.experiments.board import Board, ExperimentConflictError, UnknownExperimentError
from serve.experiments.canary import Evidence, Hold, Move, decide, watched, with_share
from serve.experiments.keeping import Storage
from serve.experiments.metrics import ExperimentMetrics
from serve.experiments.standing import Standing
from serve.experiments.store.errors import StoreError, VersionTakenError

log = logging.getLogger(__name__)

# Seconds between two looks, at least, and in times of what a look took: reading all records must not become
# what the process does.
LOOK, PATIENCE = 5.0, 20.0


class Canaries:
    """The canaries of one board. All calls belong to its event loop; records are read on a thread.

    Every process that shares the store looks. Of two that act on the same version one is refused, and takes
    over what the other has done. clock: seconds since 1970; monotonic: seconds since whenever.
    """

    def __init__(
        self,
        board: Board,
        storage: Storage,
        metrics: ExperimentMetrics,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board, self._storage, self._metrics = board, storage, metrics
        self._clock, self._monotonic = clock, monotonic
        # When this process first saw the version that an experiment has, by its name.
        self._seen: dict[str, tuple[int, float]] = {}
        self._told: set[tuple[str, int, str]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Looks, as long as the context lasts."""
        task = asyncio.get_running_loop().create_task(self.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def run(self) -> None:
        """Look for ever; asleep while no experiment has a canary."""
        pause = 0.0
        while True:
            self._board.changed.clear()
            if not any(one.experiment.canary and one.state != "stopped" for one in self._board.all()):
                await self._board.changed.wait()
                continue
            await asyncio.sleep(max(LOOK, pause))
            began = time.monotonic()
            await self.look()
            pause = PATIENCE * (time.monotonic() - began)

    async def look(self) -> None:
        """Judge every canary that has traffic, once. Never raises: what fails is tried again."""
        if self._board.stale:
            # Otherwise done by requests, and a canary must also learn of changes when none come.
            await self._board.agree()
        for standing in self._board.all():
            if watched(standing.experiment, standing.state):
                try:
                    await self._judge(standing)
                except StoreError as error:
                    self._tell(standing, str(getattr(error, "why", error)))
                except InputError as error:
                    self._tell(standing, str(error))
                except Exception:
                    log.exception("the canary of experiment %s could not be judged", standing.name)

    async def _judge(self, standing: Standing) -> None:
        elapsed = self._elapsed(standing)
        seen = await asyncio.to_thread(self._read, standing)
        if seen is None:
            return
        decided = decide(standing.experiment, elapsed, seen)
        if isinstance(decided, Hold):
            if decided.wrong:
                self._tell(standing, decided.why)
            return
        await self._move(standing, decided)

    async def _move(self, standing: Standing, move: Move) -> None:
        experiment = with_share(standing.experiment, move.share)
        try:
            await self._board.change(standing.name, experiment, move.reason, standing.version)
        except VersionTakenError:
            await self._board.agree()
            return
        except (ExperimentConflictError, UnknownExperimentError):
            return  # somebody was faster, and the board has seen it
        back = move.share == 0
        self._metrics.canary.labels(standing.name, "rollback" if back else "step").inc()
        if back:
            log.warning("experiment %s: %s", standing.name, move.reason)

    def _elapsed(self, standing: Standing) -> float:
        """Seconds since the version began, also where the clock was set back since."""
        version, since = self._seen.get(standing.name, (0, 0.0))
        now = self._monotonic()
        if version != standing.version:
            self._seen[standing.name] = standing.version, (since := now)
        return max(self._clock() - standing.changed, now - since)

    def _read(self, standing: Standing) -> Evidence | None:
        """What the records say; None where the store is not at the board's version."""
        from serve.experiments.statistics.evidence import evidence
        from serve.experiments.statistics.source import shares_of

        assert standing.experiment.canary is not None
        arm = standing.experiment.canary.arm
        versions: dict[int, dict[str, float]] = {}
        for change in self._storage.history(standing.name):
            shares = shares_of(change)
            if not shares.get(arm):
                versions.clear()
            else:
                versions[change.version] = shares
        if max(versions, default=0) != standing.version:
            return None
        served, said = self._storage.served(standing.name), self._storage.outcomes(standing.name)
        return evidence(standing.experiment, versions, served, said)

    def _tell(self, standing: Standing, why: str) -> None:
        """Once for each version."""
        key = (standing.name, standing.version, why)
        if key not in self._told:
            self._told.add(key)
            log.warning("the canary of experiment %s holds: %s", standing.name, why)
