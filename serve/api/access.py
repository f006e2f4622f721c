"""What is told of each HTTP request once it is over: a line in the log, and a trace where that is wanted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.api.exchange import Exchange

log = logging.getLogger(__name__)

TRACE_HEADERS = (b"traceparent", b"tracestate")


class AccessLog:
    """ASGI middleware, outside of all that may answer. It puts an Exchange into the request's state as
    ``exchange``. listeners: also told of each request."""

    def __init__(self, app: ASGIApp, listeners: Iterable[Callable[[Exchange], None]] = ()) -> None:
        self.app, self.listeners = app, tuple(listeners)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _exchange(scope)
        state = scope.setdefault("state", {})
        state["exchange"] = exchange

        async def hear(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
            elif message["type"] == "http.response.body" and not message.get("more_body"):
                exchange.complete = not exchange.left
            await send(message)

        async def listen() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                exchange.left = not exchange.complete
            return message

        try:
            await self.app(scope, listen, hear)
        finally:
            exchange.ended = time.monotonic()
            exchange.request_id = state.get("request_id")
            _write(exchange)
            for listener in self.listeners:
                listener(exchange)


def _exchange(scope: Scope) -> Exchange:
    headers = {
        name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in TRACE_HEADERS
    }
    # Quoted again: a line break in it would begin a line of the log.
    return Exchange(scope["method"], quote(scope["path"], errors="replace"), headers)


def _write(exchange: Exchange) -> None:
    fields = {
        "request_id": exchange.request_id,
        "method": exchange.method,
        "path": exchange.path,
        "status": exchange.status,
        "seconds": round((exchange.ended or exchange.began) - exchange.began, 4),
        "model": exchange.model,
        "arm": exchange.routing.arm if exchange.routing else None,
        "experiment": exchange.trial.label if exchange.trial else None,
        "prompt_tokens": exchange.prompt_tokens,
        "completion_tokens": exchange.completion_tokens,
        "disconnected": exchange.left,
    }
    log.info("request", extra={"fields": fields})
