"""What travels in headers: the request's id, and which weights answered."""

from __future__ import annotations

import json
import re
import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.api.errors import as_api_error
from serve.logs import request_id as logged_id
from serve.request import Routing

REQUEST_ID = "x-request-id"
# Ids end up in logs: no spaces, no control characters, no novels.
SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class RequestIds:
    """ASGI middleware: every response carries ``x-request-id``, the client's own where it is sane.

    It is also where unexpected exceptions become a 500: the framework's own handler for those sits
    outside all middleware and would answer without the id.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        token = logged_id.set(request_id)
        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            if started:
                raise
            await as_api_error(error, request_id).response()(scope, receive, send_with_id)
        finally:
            logged_id.reset(token)


def routing_headers(routing: Routing) -> dict[str, str]:
    """A choice's ``routing`` for clients that read headers only; values are ASCII."""
    return {
        "x-twinserve-mixture": json.dumps(routing.mixture, sort_keys=True, separators=(",", ":")),
        "x-twinserve-arm": routing.arm.encode("ascii", "backslashreplace").decode("ascii"),
        "x-twinserve-generation": str(routing.generation),
    }


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == REQUEST_ID.encode() and SANE_ID.fullmatch(value):
            return str(value.decode("ascii"))
    return uuid.uuid4().hex
