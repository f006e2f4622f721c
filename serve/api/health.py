"""GET /health and GET /ready: for whoever decides to restart, or to send traffic."""

from __future__ import annotations

from fastapi import APIRouter

from serve.api.responses import Status
from serve.api.surface import ReadyEngine

routes = APIRouter()


@routes.get("/health")
async def health() -> Status:
    """200 as long as the process answers."""
    return Status(status="ok")


@routes.get("/ready")
async def ready(engine: ReadyEngine) -> Status:
    """200 when requests are served, 503 while loading or draining."""
    return Status(status="ready")
