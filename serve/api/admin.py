"""Routes below /admin: which bundle is served, and others beside it or in its place."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from pydantic import Field, model_validator
from starlette.responses import Response

from compress.errors import InputError
from serve.api.errors import RETRY_SOON, ApiError
from serve.api.fields import Text
from serve.api.jail import jailed
from serve.api.responses import Sent
from serve.api.schemas import Body
from serve.api.validation import field_error
from serve.generations import (
    Generation,
    GenerationConflictError,
    GenerationStateError,
    LoadBusyError,
    UnknownGenerationError,
)
from serve.hotload import TooLargeError
from serve.live import Live
from serve.serversettings import ServerSettings

routes = APIRouter(prefix="/admin")


class SwitchRequest(Body):
    """Another bundle, or a generation that is held, for the one that serves. serve: false to hold the bundle
    beside it. expected_generation: the one that serves."""

    bundle: Text | None = None
    generation: int | None = Field(None, ge=1)
    serve: bool = True
    expected_generation: int = Field(ge=0)

    @model_validator(mode="after")
    def _one_of_them(self) -> SwitchRequest:
        if (self.bundle is None) == (self.generation is None):
            raise field_error(
                "bundle",
                "Send either 'bundle', to load one, or 'generation', to serve one that is held.",
                "missing_required_parameter" if self.bundle is None else "invalid_value",
            )
        if self.generation is not None and not self.serve:
            raise field_error(
                "serve", "'generation' is held already; serve: false needs a 'bundle'.", "invalid_value"
            )
        return self


class GenerationInfo(Sent):
    """One generation. digest: of its bundle. requests: those that it is answering. failed: it will answer
    none any more. experiments: those that could not go on without it, since an arm names its bundle."""

    generation: int
    bundle: str
    digest: str
    tasks: list[str]
    requests: int
    failed: bool
    experiments: list[str]


class HeldInfo(GenerationInfo):
    """explicit: false where it is held for its experiments alone, and goes with the last of them."""

    explicit: bool


class Generations(Sent):
    """current: null before the first. held: those that arms of experiments may name. draining: those that end
    with their requests. loading: the bundle that is being loaded, or null."""

    current: GenerationInfo | None
    held: list[HeldInfo]
    draining: list[GenerationInfo]
    loading: str | None


async def the_live(request: Request) -> Live[Any]:
    live: Live[Any] = request.app.state.engine
    return live


async def admin_root(request: Request) -> pathlib.Path:
    """The folder of all paths. Raises ApiError 403 where the operator has named none."""
    settings: ServerSettings = request.app.state.settings
    if settings.admin.root is None:
        raise ApiError(403, "The server has no admin.root; paths cannot be named.", code="no_root")
    return settings.admin.root


TheLive = Annotated[Live[Any], Depends(the_live)]
Root = Annotated[pathlib.Path, Depends(admin_root)]


@routes.get("/generations", response_model=Generations)
async def generations(live: TheLive) -> Response:
    """The generation that serves, those held beside it, those that end, and a load on its way."""
    return _state(live).response()


@routes.post("/generations", response_model=Generations)
async def switch(body: SwitchRequest, request: Request, live: TheLive) -> Response:
    """Serve or hold another bundle, once it is loaded and has proved itself; or serve one that is held."""
    if body.generation is not None:
        with told():
            live.promote(body.generation, body.expected_generation)
        return _state(live).response()
    bundle = jailed(await admin_root(request), body.bundle or "", "bundle")
    return await switched(live, bundle, body.expected_generation, serve=body.serve)


@routes.delete("/generations/{number}", response_model=Generations)
async def release(number: Annotated[int, Path(ge=1)], live: TheLive) -> Response:
    """Hold a generation no longer: it ends with its requests."""
    with told():
        live.release(number)
    return _state(live).response()


async def switched(
    live: Live[Any],
    bundle: pathlib.Path,
    expected: int,
    made: AbstractContextManager[object] | None = None,
    *,
    serve: bool = True,
) -> Response:
    """The state after ``live.switch``; its errors as ApiError."""
    with told():
        await live.switch(bundle, expected, made, serve=serve)
    return _state(live).response()


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong inside as the answer that clients can tell apart by its code."""
    try:
        yield
    except GenerationConflictError as error:
        raise ApiError(409, str(error), param="expected_generation", code="generation_conflict") from error
    except UnknownGenerationError as error:
        raise ApiError(404, str(error), param="generation", code="generation_not_found") from error
    except GenerationStateError as error:
        raise ApiError(409, str(error), param="generation", code="generation_in_use") from error
    except LoadBusyError as error:
        raise ApiError(429, str(error), code="load_busy", headers=RETRY_SOON) from error
    except TooLargeError as error:
        raise ApiError(409, str(error), code="not_enough_memory") from error
    except InputError as error:
        raise ApiError(400, str(error), code="bundle_refused") from error


def _state(live: Live[Any]) -> Generations:
    return Generations(
        current=GenerationInfo(**_facts(live, live.current)) if live.generation else None,
        held=[HeldInfo(**_facts(live, one), explicit=one.explicit) for one in live.held],
        draining=[GenerationInfo(**_facts(live, one)) for one in live.leaving],
        loading=None if live.loading is None else str(live.loading),
    )


def _facts(live: Live[Any], generation: Generation[Any]) -> dict[str, Any]:
    return {
        "generation": generation.number,
        "bundle": str(generation.bundle),
        "digest": generation.digest,
        "tasks": list(generation.engine.tasks),
        "requests": generation.requests,
        "failed": generation.engine.failed,
        "experiments": [] if generation.retired else list(live.needs(generation)),
    }
