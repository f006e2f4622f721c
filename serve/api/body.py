"""A request's body, of a bounded size."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.api.errors import ApiError
from serve.api.gatemetrics import GateMetrics

BODILESS = {"GET", "HEAD", "OPTIONS"}


class BodyLimit:
    """ASGI middleware: reads the body, and refuses one of more than ``most`` bytes, or that takes more than
    ``seconds``, before it is parsed.

    The framework would read it whole anyway; it takes an exception raised while it reads for bad JSON, so
    refusing has to come first. Raises ApiError 413 and 408.
    """

    def __init__(self, app: ASGIApp, most: int, seconds: float, metrics: GateMetrics) -> None:
        self.app, self.most, self.seconds, self.metrics = app, most, seconds, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in BODILESS:
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self.most:
            raise self._too_large()
        try:
            async with asyncio.timeout(self.seconds):
                body = await self._read(receive)
        except TimeoutError:
            self.metrics.refused["body"] += 1
            raise ApiError(
                408, f"The body did not come within {self.seconds:g} s; send it at once.", code="body_timeout"
            ) from None
        if body is None:
            return
        whole: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def replay() -> Message:
            nonlocal whole
            if whole is None:
                return await receive()
            message, whole = whole, None
            return message

        del body
        await self.app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body; None where the client left."""
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self.most:
                raise self._too_large()
            more = message.get("more_body", False)
        return bytes(body)

    def _too_large(self) -> ApiError:
        self.metrics.refused["body"] += 1
        return ApiError(
            413,
            f"The body has more than {self.most} bytes, which are the most here; send the request in parts.",
            code="body_too_large",
        )
