"""Model ids: which weights a client asks for by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fastapi import APIRouter, Request
from starlette.responses import Response

from compress.compose import BASE
from serve.api import responses
from serve.api.errors import ApiError
from serve.api.surface import CurrentEngine, EngineSurface
from serve.request import Target

OWNER = "twinserve"

routes = APIRouter()


def model_ids(engine: EngineSurface) -> dict[str, Target]:
    """Every id that ``model`` may hold: NAME, NAME:dynamic, NAME:static and NAME:<task>."""
    name = engine.name
    ids = {
        name: Target("dynamic"),
        f"{name}:dynamic": Target("dynamic"),
        f"{name}:static": Target("static"),
    }
    return ids | {f"{name}:{task}": Target("task", task=task) for task in engine.tasks}


def resolve(engine: EngineSurface, model: str, mixture: Mapping[str, float] | None = None) -> Target:
    """The weights that a request names.

    Raises ApiError 404 for an unknown model, and 400 for a mixture of unknown tasks or one given
    beside a model id that already fixes the weights.
    """
    ids = model_ids(engine)
    if model not in ids:
        raise _no_such_model(model, ids)
    target = ids[model]
    if mixture is None:
        return target
    if target.kind != "dynamic":
        raise ApiError(
            400,
            f"'mixture' replaces the router's choice, and '{model}' has none;"
            f" send it with '{engine.name}' or '{engine.name}:dynamic'.",
            param="mixture",
            code="invalid_value",
        )
    # Whether the pretrained base is at hand, the engine says.
    unknown = sorted(set(mixture) - {*engine.tasks, BASE})
    if unknown:
        raise ApiError(
            400,
            f"'mixture' names the unknown task '{unknown[0]}';"
            f" this model's tasks are {_listed(engine.tasks)}.",
            param="mixture",
            code="invalid_value",
        )
    return Target("mixture", mixture=dict(mixture))


@routes.get("/v1/models", response_model=responses.ModelList)
async def list_models(request: Request, engine: CurrentEngine) -> Response:
    """Every model id that can be asked."""
    data = [_card(request, model) for model in model_ids(engine)]
    return responses.ModelList(object="list", data=data).response()


@routes.get("/v1/models/{model:path}", response_model=responses.Model)
async def show_model(model: str, request: Request, engine: CurrentEngine) -> Response:
    """One model id."""
    ids = model_ids(engine)
    if model not in ids:
        raise _no_such_model(model, ids)
    return _card(request, model).response()


def _card(request: Request, model: str) -> responses.Model:
    created = request.app.state.started
    return responses.Model(id=model, object="model", created=created, owned_by=OWNER)


def _no_such_model(model: str, ids: Mapping[str, Target]) -> ApiError:
    return ApiError(
        404,
        f"There is no model '{model}' here; the models are {_listed(ids)}.",
        param="model",
        code="model_not_found",
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
