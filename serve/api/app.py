"""The endpoint as an ASGI application."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI

from serve.api import chat, completions, errors, health, models, scores
from serve.api.headers import RequestIds
from serve.api.responses import ErrorBody
from serve.api.surface import EngineSurface
from serve.live import Live
from serve.serversettings import ServerSettings

# Also keeps the framework from documenting 422, which this API never sends.
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request cannot be served as it is"},
    "5XX": {"model": ErrorBody, "description": "The server cannot answer now"},
}


def create_app(engine: EngineSurface, settings: ServerSettings | None = None) -> FastAPI:
    """An ASGI app that serves ``engine`` in OpenAI's wire format. settings: None is all defaults.

    The app neither starts nor stops the engine: whoever made it owns it. It may be handed over
    before it is ready; until then answers are refused with 503. A ``Live`` engine's generations can be
    switched by the routes below /admin where settings enable them.
    """
    app = FastAPI(title="twinserve", responses=ERRORS, redirect_slashes=False)
    app.state.engine = engine
    app.state.settings = settings or ServerSettings.model_construct()
    app.state.started = int(time.time())
    app.add_middleware(RequestIds)
    errors.install(app)
    for part in (completions, chat, scores, models, health):
        app.include_router(part.routes)
    if app.state.settings.admin.enabled and isinstance(engine, Live):
        # What changes bundles is imported only where it may be asked to.
        from serve.api import admin, adminexperts

        for part in (admin, adminexperts):
            app.include_router(part.routes)
    return app
