"""Experiments for tests, a clock that can be set, and an engine that keeps times."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
from pydantic import SecretStr

from serve.api.app import create_app
from serve.api.security import Security
from serve.experiments.definitions import parsed
from serve.experiments.keeping import Storage
from serve.experiments.spec import Experiment
from serve.request import Event, GenerationRequest
from serve.serversettings import ServerSettings
from tests.serve.stub_engine import StubEngine

ADMIN = {"authorization": "Bearer tws-admin"}
ARMS = [{"name": "old", "model": "static", "share": 0.5}, {"name": "new", "share": 0.5}]
METRICS = [{"name": "correct", "kind": "binary"}, {"name": "latency", "direction": "lower", "guardrail": 0.2}]


def declared(name: str = "trial", **keys: Any) -> dict[str, Any]:
    """An experiment as plain data: half static, half dynamic."""
    return {"name": name, "arms": ARMS, "metrics": METRICS, **keys}


def experiment(name: str = "trial", **keys: Any) -> Experiment:
    return parsed(declared(name, **keys))


def arms(**shares: float) -> list[dict[str, Any]]:
    """Static arms of these shares."""
    return [{"name": name, "model": "static", "share": share} for name, share in shares.items()]


class Clock:
    """Seconds since 1970, as the test sets them."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class TimedEngine(StubEngine):
    """Writes down when tokens came, as real engines do."""

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Event]:
        async for event in super().stream(request):
            if event.token_ids and request.times is not None:
                request.times.latest = time.monotonic()
                request.times.first = request.times.first or request.times.latest
            yield event


def client(
    engine: Any, storage: Storage | None = None, settings: ServerSettings | None = None
) -> httpx.AsyncClient:
    """A client of a new app that has an admin key."""
    settings = settings or ServerSettings.model_construct(security=Security(admin_key=SecretStr("tws-admin")))
    transport = httpx.ASGITransport(create_app(engine, settings, storage))
    return httpx.AsyncClient(transport=transport, base_url="http://twin")


async def begin(http: httpx.AsyncClient, **keys: Any) -> httpx.Response:
    """POST an experiment."""
    return await http.post("/v1/admin/experiments", json={"experiment": declared(**keys)}, headers=ADMIN)


def complete(http: httpx.AsyncClient, user: str | None = None, **fields: Any) -> Any:
    """POST /v1/completions, to be awaited."""
    headers = fields.pop("headers", {})
    body = {"model": "twin", "prompt": "sort these", **({} if user is None else {"user": user}), **fields}
    return http.post("/v1/completions", json=body, headers=headers)
