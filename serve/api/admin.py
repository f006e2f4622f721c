"""Routes below /admin: which bundle is served, and another in its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from compress.errors import InputError
from serve.api.errors import RETRY_SOON, ApiError
from serve.api.jail import jailed
from serve.api.responses import Sent
from serve.hotload import TooLargeError
from serve.live import Generation, GenerationConflictError, Live, LoadBusyError
from serve.serversettings import ServerSettings

routes = APIRouter(prefix="/admin")


class SwitchRequest(BaseModel):
    """Another bundle for the one that serves."""

    model_config = ConfigDict(extra="forbid")
    bundle: str
    expected_generation: int = Field(ge=0)


class GenerationInfo(Sent):
    """One generation. requests: those that it is answering."""

    generation: int
    bundle: str
    tasks: list[str]
    requests: int


class Generations(Sent):
    """current: null before the first. loading: the bundle that is being loaded, or null."""

    current: GenerationInfo | None
    draining: list[GenerationInfo]
    loading: str | None


async def the_live(request: Request) -> Live[Any]:
    live: Live[Any] = request.app.state.engine
    return live


async def admin_root(request: Request) -> Path:
    """The folder of all paths. Raises ApiError 403 where the operator has named none."""
    settings: ServerSettings = request.app.state.settings
    if settings.admin.root is None:
        raise ApiError(403, "The server has no admin.root; paths cannot be named.", code="no_root")
    return settings.admin.root


TheLive = Annotated[Live[Any], Depends(the_live)]
Root = Annotated[Path, Depends(admin_root)]


@routes.get("/generations", response_model=Generations)
async def generations(live: TheLive) -> Response:
    """The generation that serves, those that end, and a load on its way."""
    return _state(live).response()


@routes.post("/generations", response_model=Generations)
async def switch(body: SwitchRequest, live: TheLive, root: Root) -> Response:
    """Serve another bundle, once it is loaded and has proved itself."""
    bundle = jailed(root, body.bundle, "bundle")
    return await switched(live, bundle, body.expected_generation)


async def switched(
    live: Live[Any], bundle: Path, expected: int, made: AbstractContextManager[object] | None = None
) -> Response:
    """The state after ``live.switch``; its errors as ApiError."""
    with told():
        await live.switch(bundle, expected, made)
    return _state(live).response()


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong inside as the answer that clients can tell apart by its code."""
    try:
        yield
    except GenerationConflictError as error:
        raise ApiError(409, str(error), param="expected_generation", code="generation_conflict") from error
    except LoadBusyError as error:
        raise ApiError(429, str(error), code="load_busy", headers=RETRY_SOON) from error
    except TooLargeError as error:
        raise ApiError(409, str(error), code="not_enough_memory") from error
    except InputError as error:
        raise ApiError(400, str(error), code="bundle_refused") from error


def _state(live: Live[Any]) -> Generations:
    return Generations(
        current=_info(live.current) if live.generation else None,
        draining=[_info(generation) for generation in live.leaving],
        loading=None if live.loading is None else str(live.loading),
    )


def _info(generation: Generation[Any]) -> GenerationInfo:
    return GenerationInfo(
        generation=generation.number,
        bundle=str(generation.bundle),
        tasks=list(generation.engine.tasks),
        requests=generation.requests,
    )
