"""The engine as the API sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from fastapi import Depends, Request
from prometheus_client import CollectorRegistry

from serve.api.errors import RETRY_SOON, ApiError
from serve.request import Event, GenerationRequest

if TYPE_CHECKING:
    from router import Route


class EngineSurface(Protocol):
    """All that the API asks of an engine; any object with these members can be served."""

    @property
    def name(self) -> str:
        """The model id that stands for the whole bundle."""

    @property
    def tasks(self) -> Sequence[str]:
        """Names of the experts that can answer now."""

    @property
    def generation(self) -> int:
        """Version of the bundle's contents."""

    @property
    def max_model_len(self) -> int:
        """Prompt and answer together, in tokens, at most."""

    @property
    def tokenizer(self) -> Any:
        """A Hugging Face tokenizer."""

    @property
    def ready(self) -> bool:
        """False while loading or draining."""

    @property
    def metrics(self) -> CollectorRegistry:
        """Counters to scrape."""

    def check(self, request: GenerationRequest) -> None:
        """Raise InputError when ``stream`` could not serve the request."""

    def stream(self, request: GenerationRequest) -> AsyncIterator[Event]:
        """Events of one answer; the last has a finish_reason. Closing the iterator cancels it."""
        ...

    async def route(self, conversations: Sequence[Sequence[str]]) -> Sequence[Route]:
        """The router's scores, one for each conversation, which is the user's turns."""
        ...


async def current_engine(request: Request) -> EngineSurface:
    """The engine behind this app, whatever its state."""
    engine: EngineSurface = request.app.state.engine
    return engine


async def ready_engine(request: Request) -> EngineSurface:
    """The engine behind this app.

    Raises ApiError 503 while it cannot answer: clients retry that, and balancers go elsewhere.
    """
    engine = await current_engine(request)
    if not engine.ready:
        raise ApiError(
            503,
            "The model is loading or shutting down; try again in a moment.",
            code="not_ready",
            headers=RETRY_SOON,
        )
    return engine


CurrentEngine = Annotated[EngineSurface, Depends(current_engine)]
ReadyEngine = Annotated[EngineSurface, Depends(ready_engine)]
