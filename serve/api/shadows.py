"""Shadows: another arm answers a request, too, unseen, and what both said is kept side by side."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from serve.api.routedtasks import routed_task
from serve.api.surface import EngineSurface
from serve.experiments.assignment import BUCKETS, arm_bucket
from serve.experiments.board import Choice
from serve.experiments.definitions import target
from serve.experiments.records import Served
from serve.experiments.spec import Experiment
from serve.job import DeadlineError, DisplacedError
from serve.request import GenerationRequest
from serve.times import Times

log = logging.getLogger(__name__)

# Seconds for which a shadow may last: a busy engine has little time for it.
PATIENCE = 600.0
# How a shadow ended. busy: as many as there may be were under way. late, displaced: it found no time, or no
# room. left: nobody saw the answer beside it to the end. stopped: the engine ended. failed: by its own fault.
Outcome = Literal["finished", "busy", "late", "displaced", "left", "stopped", "failed"]


@dataclass
class Shadow:
    """One answer beside another. seen: the text that the client got, None where it did not get all of it."""

    seen: asyncio.Future[str | None]
    task: asyncio.Task[None] = field(init=False)

    def beside(self, text: str | None) -> None:
        """The client's own answer has ended."""
        self.seen.set_result(text)
        if text is None:
            self.task.cancel()


class Shadows:
    """Those of one app, used by its event loop alone. keep: takes their records. count: hears of every one,
    by experiment and outcome."""

    def __init__(self, keep: Callable[[Served], None], count: Callable[[str, Outcome], None]) -> None:
        self._keep, self._count = keep, count
        self._running: Counter[str] = Counter()

    def begin(self, engine: EngineSurface, request: GenerationRequest, record: Record) -> Shadow | None:
        """The shadow of a request that takes part in an experiment; None where there is to be none. record:
        what is known of the request."""
        choice, name = record.choice, record.experiment
        wanted = choice.experiment.shadow
        if wanted is None or wanted.arm == choice.arm.name or not _drawn(choice.experiment, record.response):
            return None
        if not request.params.max_tokens:
            return None  # there is nothing to compare
        if self._running[name] >= wanted.most:
            self._count(name, "busy")
            return None
        asked = replace(
            request,
            target=target(choice.experiment.arm(wanted.arm)),
            timeout=PATIENCE,
            background=True,
            times=Times(),
        )
        loop = asyncio.get_running_loop()
        shadow = Shadow(loop.create_future())
        shadow.task = loop.create_task(self._answer(engine, asked, record, shadow))
        self._running[name] += 1
        shadow.task.add_done_callback(lambda _: self._left(name))
        return shadow

    def _left(self, experiment: str) -> None:
        self._running[experiment] -= 1

    async def _answer(
        self, engine: EngineSurface, request: GenerationRequest, record: Record, shadow: Shadow
    ) -> None:
        outcome: Outcome = "failed"
        try:
            outcome = await self._told(engine, request, record, shadow)
        except asyncio.CancelledError:
            outcome = "left" if shadow.seen.done() and shadow.seen.result() is None else "stopped"
            raise
        finally:
            self._count(record.experiment, outcome)

    async def _told(
        self, engine: EngineSurface, request: GenerationRequest, record: Record, shadow: Shadow
    ) -> Outcome:
        pieces: list[str] = []
        tokens, task = 0, None
        times = request.times
        assert times is not None
        try:
            async for event in engine.stream(request):
                pieces.append(event.text)
                tokens += len(event.token_ids)
                task = routed_task(event.routing)
        except DeadlineError:
            return "late"
        except DisplacedError:
            return "displaced"
        except Exception as error:
            if not engine.ready:
                return "stopped"
            log.warning("the shadow of %s failed: %s", record.response, error)
            self._keep(record.made(None, None, {"error": 1.0}))
            return "failed"
        seen = await shadow.seen
        if seen is None:
            return "left"
        text = "".join(pieces)
        measured = {
            "error": 0.0,
            "agreement": float(text == seen),
            "latency": _working(times),
            "completion_tokens": float(tokens),
        }
        self._keep(record.made(text, task, measured))
        return "finished"


@dataclass(frozen=True)
class Record:
    """What is known of a shadow when it begins. made: the record that is kept of it in the end."""

    response: str
    choice: Choice
    prompt: str | None = field(repr=False)
    moment: float
    generation: int

    @property
    def experiment(self) -> str:
        """Name of its experiment."""
        return self.choice.experiment.name

    def made(self, text: str | None, task: str | None, metrics: dict[str, float]) -> Served:
        shadow = self.choice.experiment.shadow
        assert shadow is not None
        return Served(
            response=f"{self.response}-shadow",
            experiment=self.experiment,
            version=self.choice.version,
            arm=shadow.arm,
            unit=self.choice.unit,
            task=task,
            moment=self.moment,
            metrics=metrics,
            prompt=self.prompt,
            generation=self.generation,
            shadow=True,
            beside=self.response,
            text=text,
        )


def _drawn(experiment: Experiment, response: str) -> bool:
    """Whether a response is one of those that get a shadow. Ids are random: so is this, and told by them."""
    assert experiment.shadow is not None
    return arm_bucket(f"{experiment.name} shadow", response) < round(experiment.shadow.share * BUCKETS)


def _working(times: Times) -> float:
    """Seconds that the engine worked on an answer, without those for which it waited."""
    routing = 0.0 if times.routing is None or times.routed is None else times.routed - times.routing
    return routing + times.working
