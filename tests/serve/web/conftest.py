"""One browser for each file of tests of the page, and visits that are checked when they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi import APIRouter
from starlette.applications import Starlette
from starlette.routing import Mount

from serve.api.app import create_app
from serve.serversettings import ServerSettings
from tests.serve.server import serving_app
from tests.serve.stub_engine import StubEngine
from tests.serve.web.browser import Visit, chromium


# Not for the session: Playwright keeps an event loop running in this thread, where other tests start theirs.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """``visit(engine, settings, routes, **options)``: a tab of a new browser at a server for ``engine``.
    below: the path that it is found below. options: of Playwright's context, as color_scheme."""
    visits: list[Visit] = []
    with ExitStack() as stack:

        def begin(
            engine: StubEngine,
            settings: ServerSettings | None = None,
            routes: APIRouter | None = None,
            below: str = "",
            **options: Any,
        ) -> Visit:
            app = create_app(engine, settings)
            if routes is not None:
                # Before the app's own: what tests answer takes the place of what the endpoint would.
                own = list(app.router.routes)
                app.include_router(routes)
                app.router.routes[:] = [*app.router.routes[len(own) :], *own]
            outer: Any = Starlette(routes=[Mount(below, app)]) if below else app
            origin = stack.enter_context(serving_app(outer))
            context = browser.new_context(**options)
            stack.callback(context.close)
            # Slow machines are no failures; what never comes is told by the test's own time-out.
            context.set_default_timeout(60_000)
            visits.append(Visit(context, origin))
            return visits[-1]

        yield begin
        for one in visits:
            assert one.errors == []
            assert one.strangers == []
