"""The gate before the API: whose request it is, whether it may come now, and when it has gone."""

from __future__ import annotations

import asyncio
import ipaddress
import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.api.admission import Admission, Ticket
from serve.api.errors import ApiError
from serve.api.gatemetrics import GateMetrics
from serve.api.keys import Keys
from serve.api.rates import Rates
from serve.api.security import unauthorized
from serve.keysfile import Role

log = logging.getLogger(__name__)

ADMIN = ("/admin/", "/v1/admin/")


class StalledReader(Exception):
    """The client keeps its connection and reads nothing from it."""


class Gate:
    """ASGI middleware: asks for a key below /v1, for an admin key below ADMIN, counts the caller's requests,
    and gives the request a ``ticket``, whose answers are free again when the response has ended, whatever
    ended it.

    patience: seconds that a piece of a response may wait for the client to take it; then the client is given
    up, and the server closes its connection. Works before a body is read. Raises ApiError 401, 404 and 429.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys,
        rates: Rates,
        admission: Admission,
        metrics: GateMetrics,
        metrics_key: bool,
        patience: float,
    ) -> None:
        self.app, self.keys, self.rates = app, keys, rates
        self.admission, self.metrics, self.metrics_key = admission, metrics, metrics_key
        self.patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] == "http" and path == "/metrics" and self.metrics_key:
            self._caller(scope)
        administers = path.startswith(ADMIN)
        if scope["type"] == "http" and administers:
            self._administrator(scope, path)
        if scope["type"] != "http" or administers or not path.startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        caller = self._caller(scope)
        try:
            headers = self.rates.take(caller)
        except ApiError:
            self.metrics.refused["rate"] += 1
            raise
        ticket = scope.setdefault("state", {})["ticket"] = Ticket(self.admission, caller)

        async def send_with_rate(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            try:
                async with asyncio.timeout(self.patience):
                    await send(message)
            except TimeoutError as error:
                self.metrics.stalled += 1
                log.warning("the client took nothing for %g s", self.patience)
                raise StalledReader from error

        try:
            await self.app(scope, receive, send_with_rate)
        finally:
            ticket.leave()

    def _caller(self, scope: Scope) -> str:
        return _address(scope) if self.keys.open else self._owner(scope, "user", "API key")

    def _administrator(self, scope: Scope, path: str) -> str:
        if not self.keys.configured("admin"):
            # As if there were no such routes: they are off unless asked for.
            raise ApiError(404, f"There is no route {scope['method']} {path}.", code="unknown_url")
        return self._owner(scope, "admin", "admin key")

    def _owner(self, scope: Scope, role: Role, what: str) -> str:
        authorization = Headers(scope=scope).get("authorization", "").encode("latin-1")
        owner = self.keys.owner(authorization, role)
        if owner is None:
            self.metrics.refused["key"] += 1
            raise unauthorized(authorization, what)
        return owner


def _address(scope: Scope) -> str:
    host = str((scope.get("client") or ("unknown",))[0])
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host  # a Unix socket, or a test
    if address.version == 6 and address.ipv4_mapped is None:
        # Every customer has such a network to himself, and could count anew from each of its addresses.
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host
