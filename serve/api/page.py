"""GET / and /web: the page for people with a browser; GET /v1/examples: the prompts that it offers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from serve.api.responses import ExamplePrompt, ExamplePrompts

if TYPE_CHECKING:
    from router.prompts import Prompt

FILES = Path(__file__).parents[1] / "web"
# All of it comes from this server, and nothing that stands in an answer can become a script or a style.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types lit-html"
)
# Asked for anew each time, and answered by 304: a new version's scripts must not meet an old one's page.
HEADERS = {"content-security-policy": POLICY, "cache-control": "no-cache"}


class PageFiles(StaticFiles):
    """The files of ``serve/web``, with an ETag."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def install(app: FastAPI, prompts: Sequence[Prompt]) -> None:
    """Serve the page, without a key, and the example prompts, with one where there are keys.

    The page itself tells nothing of the bundle: it asks the API, as whoever opened it.
    """
    files = PageFiles(directory=FILES)
    offered = ExamplePrompts(
        object="list", data=[ExamplePrompt(task=prompt.task, prompt=prompt.text) for prompt in prompts]
    )
    routes = APIRouter()

    @routes.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    @routes.get("/v1/examples", response_model=ExamplePrompts)
    async def examples() -> Response:
        """Prompts to try, as the settings name them."""
        return offered.response()

    app.include_router(routes)
    app.mount("/web", files)
