"""The engine as the API sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, ExitStack
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
    def digest(self) -> str:
        """Which bundle that is, see ``compress.bundle.digest_of``."""

    @property
    def router(self) -> Any:
        """None where no dynamic request can be answered."""

    @property
    def max_model_len(self) -> int:
        """Prompt and answer together, in tokens, at most."""

    @property
    def tokenizer(self) -> Any:
        """A Hugging Face tokenizer."""

    @property
    def ready(self) -> bool:
        """False while loading or draining, and once failed."""

    @property
    def failed(self) -> bool:
        """True when it will never answer again, and only a restart helps."""

    def pinned(self, generation: int | None = None) -> AbstractContextManager[EngineSurface]:
        """What answers one request: the same from its first check to its answer, whatever is switched
        meanwhile. generation: one of ``engines``, None for the one that serves."""
        ...

    @property
    def engines(self) -> Sequence[EngineSurface]:
        """Of all generations that can be asked, the one that serves first. Raises NotReadyError while there
        is none."""

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


async def whole_engine(request: Request) -> EngineSurface:
    """The engine behind this app, all its generations, whatever its state."""
    engine: EngineSurface = request.app.state.engine
    return engine


WholeEngine = Annotated[EngineSurface, Depends(whole_engine)]


async def current_engine(request: Request, whole: WholeEngine) -> AsyncIterator[EngineSurface]:
    """The generation that answers this request, kept until it has."""
    with ExitStack() as lease:
        request.state.lease = lease
        yield lease.enter_context(whole.pinned())


def exchanged(request: Request, generation: int) -> EngineSurface:
    """The generation that answers this request from now on, in place of the one that ``current_engine`` gave,
    which is let go."""
    whole: EngineSurface = request.app.state.engine
    lease: ExitStack = request.state.lease
    with lease.pop_all():
        return lease.enter_context(whole.pinned(generation))


# Not for the whole response: a client that reads slowly must not keep a generation in memory whose engine
# has long answered.
CurrentEngine = Annotated[EngineSurface, Depends(current_engine, scope="function")]


async def ready_engine(whole: WholeEngine, engine: CurrentEngine) -> EngineSurface:
    """The generation that answers this request.

    Raises ApiError 503 while none can: clients retry that, and balancers go elsewhere.
    """
    if not whole.ready:
        raise ApiError(
            503,
            "The model is loading or shutting down; try again in a moment.",
            code="not_ready",
            headers=RETRY_SOON,
        )
    return engine


ReadyEngine = Annotated[EngineSurface, Depends(ready_engine)]
