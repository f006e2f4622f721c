"""The endpoint as an ASGI application."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from compress.errors import InputError
from serve.api import (
    adminexperiments,
    chat,
    completions,
    errors,
    examples,
    experiments,
    feedback,
    health,
    models,
    page,
    reports,
    scores,
)
from serve.api.access import AccessLog
from serve.api.admission import Admission
from serve.api.body import BodyLimit
from serve.api.exchange import Exchange
from serve.api.gate import Gate
from serve.api.gatemetrics import GateMetrics
from serve.api.hardening import Hardening
from serve.api.headers import RequestIds
from serve.api.rates import Rates
from serve.api.responses import ErrorBody
from serve.api.surface import EngineSurface
from serve.api.trials import Trials
from serve.experiments.board import Board
from serve.experiments.canaries import Canaries
from serve.experiments.definitions import read_experiments
from serve.experiments.keeping import Storage
from serve.experiments.memory import Memory
from serve.live import Live
from serve.serversettings import ServerSettings

# Also keeps the framework from documenting 422, which this API never sends.
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request cannot be served as it is"},
    "5XX": {"model": ErrorBody, "description": "The server cannot answer now"},
}


def create_app(
    engine: EngineSurface, settings: ServerSettings | None = None, storage: Storage | None = None
) -> FastAPI:
    """An ASGI app that serves ``engine`` in OpenAI's wire format. settings: None is all defaults. storage: of
    experiments and what comes of them; None keeps them in memory.

    The app neither starts nor stops the engine: whoever made it owns it. It may be handed over
    before it is ready; until then answers are refused with 503. A ``Live`` engine's generations can be
    switched by the routes below /admin where settings enable them and there is an admin key. Raises
    InputError for a broken file of keys, of example prompts or of experiments.
    """
    settings = settings or ServerSettings.model_construct()
    pages: dict[str, Any] = {} if settings.security.docs else {"docs_url": None, "redoc_url": None}
    app = FastAPI(title="twinserve", responses=ERRORS, redirect_slashes=False, lifespan=_lifespan, **pages)
    app.state.engine = engine
    app.state.settings = settings
    app.state.started = int(time.time())
    kept = Memory() if storage is None else storage
    trials = app.state.trials = _trials(settings, kept)
    app.state.canaries = Canaries(trials.board, kept, trials.metrics)
    app.state.reports = reports.Reports(kept)
    if isinstance(engine, Live):
        engine.needing, trials.board.listen = trials.board.naming, engine.settle
    _guard(app, settings)
    errors.install(app)
    for part in (completions, chat, scores, models, feedback, experiments, reports, adminexperiments, health):
        app.include_router(part.routes)
    if settings.admin.enabled and isinstance(engine, Live):
        # What changes bundles is imported only where it may be asked to.
        from serve.api import admin, adminexperts

        for part in (admin, adminexperts):
            app.include_router(part.routes)
    if settings.page.enabled:
        page.install(app, settings.page.prompts())
    examples.install(app)
    return app


def _guard(app: FastAPI, settings: ServerSettings) -> None:
    limits, security = settings.limits, settings.security
    metrics = app.state.gate_metrics = GateMetrics()
    app.state.keys = security.keys()
    # The last is the outermost: a request is let in before its body is read, and every refusal has an id
    # and may be read by the pages that may ask.
    app.add_middleware(BodyLimit, most=int(limits.body), seconds=limits.body_timeout, metrics=metrics)
    app.add_middleware(
        Gate,
        keys=app.state.keys,
        rates=Rates(limits.rates),
        admission=Admission(limits, settings.slots, metrics),
        metrics=metrics,
        metrics_key=security.metrics_key,
        patience=limits.stalled_reader,
    )
    app.add_middleware(RequestIds)
    tracing = _tracing(settings)
    app.add_middleware(AccessLog, listeners=[app.state.trials.ended, *([] if tracing is None else [tracing])])
    app.add_middleware(Hardening)
    if security.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=security.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["*"],
        )


def _trials(settings: ServerSettings, kept: Storage) -> Trials:
    file = settings.experiments.file
    declared = [] if file is None else read_experiments(file)
    for experiment in declared:
        for arm in experiment.arms:
            if arm.generation is not None:
                raise InputError(
                    f"{file}: experiment {experiment.name!r}: arm {arm.name!r} names generation"
                    f" {arm.generation}, and numbers begin anew with each start; give the bundle's digest"
                    " instead (sha256sum bundle.json)"
                )
    return Trials(Board(kept, declared), kept)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with app.state.canaries.running():
        yield


def _tracing(settings: ServerSettings) -> Callable[[Exchange], None] | None:
    if settings.tracing.endpoint is None:
        return None
    from serve.api.spans import Spans, to_collector

    return Spans(to_collector(settings.tracing.endpoint))
