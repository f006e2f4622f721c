"""GET /v1/experiments/NAME and …/events: what an experiment has shown, now and as it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from compress.errors import InputError
from serve.api.errors import RETRY_SOON, ApiError
from serve.api.experiments import ExperimentInfo, info, standing_of, the_board
from serve.api.surface import EngineSurface, WholeEngine
from serve.experiments.keeping import Storage
from serve.experiments.statistics.report import Report
from serve.experiments.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds for which a report is new enough, at least, and in times of what it took to make.
FRESH, PATIENCE = 2.0, 20.0
# Seconds between two looks of a stream, and between two beats of its heart.
LOOK, BEAT = 1.0, 15.0

routes = APIRouter()


class Reports:
    """Reports of the experiments in ``storage``. Making one reads all records of an experiment, so everybody
    who asks within a while gets the same."""

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage, self._clock = storage, clock
        self._made: dict[str, tuple[Report, float]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def get(self, name: str) -> Report | None:
        """The report of an experiment that there is; None while its definition is on its way to the
        database. Raises StoreError."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            report, until = self._made.get(name, (None, 0.0))
            if report is not None and self._clock() < until:
                return report
            began = self._clock()
            try:
                report = await asyncio.to_thread(self._report, name)
            except InputError:
                return None
            ended = self._clock()
            self._made[name] = report, ended + max(FRESH, PATIENCE * (ended - began))
            return report

    def _report(self, name: str) -> Report:
        from serve.experiments.statistics.source import report_of

        return report_of(self._storage, name, now=time.time())


@routes.get("/v1/experiments/{name}", response_model=Report | ExperimentInfo)
async def show_experiment(name: str, request: Request) -> Response:
    """What one experiment has shown: arms against the control, with intervals, and a decision in words."""
    board = the_board(request)
    standing = standing_of(board, name)
    report = await _report(request, name)
    return info(board, standing).response() if report is None else _json(report)


@routes.get(
    "/v1/experiments/{name}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Events called report"}},
)
async def follow(name: str, request: Request, engine: WholeEngine) -> Response:
    """The same as server-sent events, one whenever there is something new, until the server drains."""
    standing_of(the_board(request), name)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    events = _events(request, name, engine)
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def _events(request: Request, name: str, engine: EngineSurface) -> AsyncIterator[str]:
    sent, beaten = None, time.monotonic()
    while engine.ready:
        try:
            report = await request.app.state.reports.get(name)
        except StoreError:
            report = None  # it will be back
        if report is not None and (new := report.model_copy(update={"moment": 0.0})) != sent:
            sent, beaten = new, time.monotonic()
            yield f"event: report\ndata: {report.model_dump_json()}\n\n"
        elif time.monotonic() - beaten > BEAT:
            beaten = time.monotonic()
            yield ": nothing new\n\n"
        await asyncio.sleep(LOOK)


async def _report(request: Request, name: str) -> Report | None:
    reports: Reports = request.app.state.reports
    try:
        return await reports.get(name)
    except StoreError as error:
        raise ApiError(503, f"{error}.", code="not_kept", headers=RETRY_SOON) from error


def _json(report: Report) -> Response:
    return Response(report.model_dump_json(), media_type="application/json")
