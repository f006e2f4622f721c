"""Headers that tell browsers and caches to do no more with an answer than read it."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DEFAULTS = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
# FastAPI's pages hold inline scripts and load others; they still may not be framed.
DOCS = {"/docs", "/docs/oauth2-redirect", "/redoc"}
DOCS_POLICY = "frame-ancestors 'none'"


class Hardening:
    """ASGI middleware: adds each of the headers that a response has not set itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if scope["path"].removeprefix(scope.get("root_path", "")) in DOCS:
                    headers.setdefault("content-security-policy", DOCS_POLICY)
                for name, value in DEFAULTS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_hardened)
