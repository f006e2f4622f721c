"""GET /health, /ready and /metrics: for whoever decides to restart, to send traffic, or to worry."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import PlainTextResponse, Response

from serve.api.errors import ApiError
from serve.api.responses import Status
from serve.api.surface import ReadyEngine, WholeEngine

routes = APIRouter()


@routes.get("/health")
async def health(engine: WholeEngine) -> Status:
    """200 as long as the process can do its work, or will: 503 means that only a restart helps."""
    if engine.failed:
        raise ApiError(503, "The engine has ended; restart the server.", code="engine_dead")
    return Status(status="ok")


@routes.get("/ready")
async def ready(engine: ReadyEngine) -> Status:
    """200 when requests are served, 503 while loading or draining."""
    return Status(status="ready")


@routes.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request, engine: WholeEngine) -> Response:
    """What the engine has done, the gate refused and experiments count, in Prometheus' text format."""
    state = request.app.state
    told = (engine.metrics, state.gate_metrics, *state.trials.registries)
    text = b"".join(generate_latest(each) for each in told)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
