"""Routes below /v1/admin/experiments: begin, change and end experiments. The gate asks for the admin key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from compress.errors import InputError
from serve.api.errors import RETRY_SOON, ApiError
from serve.api.experiments import standing_of, the_board, unknown
from serve.api.fields import Text
from serve.api.responses import Sent
from serve.api.schemas import Body
from serve.api.surface import WholeEngine
from serve.api.trials import loaded
from serve.experiments.board import ExperimentConflictError, UnknownExperimentError
from serve.experiments.definitions import check, parsed
from serve.experiments.loaded import Loaded, by_digest
from serve.experiments.records import State
from serve.experiments.spec import Experiment
from serve.experiments.standing import Standing
from serve.experiments.store.errors import StoreError, VersionTakenError

routes = APIRouter(prefix="/v1/admin/experiments")

Reason = Annotated[Text, Field(min_length=1, max_length=500)]


class StartRequest(Body):
    """experiment: as in a file of experiments. reason: for whoever reads the record later."""

    experiment: dict[str, Any]
    reason: Reason = "started"


class ChangeRequest(Body):
    """shares: of every arm whose share changes. experiment: keys that replace the experiment's own."""

    shares: dict[str, float] = Field(default_factory=dict)
    experiment: dict[str, Any] = Field(default_factory=dict)
    reason: Reason = "changed"


class ExperimentState(Sent):
    """One experiment with all that it was declared with. changed: RFC 3339. reason: why it last changed.
    canary: where its canary is, in words; null without one."""

    name: str
    version: int
    state: State
    changed: datetime
    reason: str
    canary: str | None
    experiment: Experiment

    @classmethod
    def of(cls, standing: Standing) -> ExperimentState:
        return cls(
            name=standing.name,
            version=standing.version,
            state=standing.state,
            changed=datetime.fromtimestamp(standing.changed, UTC),
            reason=standing.reason,
            canary=standing.canary,
            experiment=standing.experiment,
        )

    def json_text(self) -> str:
        # Whole: an experiment's defaults belong to what it was declared with.
        return self.model_dump_json()


class ExperimentStates(Sent):
    object: Literal["list"]
    data: list[ExperimentState]

    def json_text(self) -> str:
        return self.model_dump_json()


@routes.get("", response_model=ExperimentStates)
async def states(request: Request) -> Response:
    """Every experiment as it stands, in the order in which they began."""
    data = [ExperimentState.of(standing) for standing in the_board(request).all()]
    return ExperimentStates(object="list", data=data).response()


@routes.post("", response_model=ExperimentState)
async def start(body: StartRequest, request: Request, engine: WholeEngine) -> Response:
    """Begin an experiment, or schedule it where its start is to come."""
    with told():
        experiment = _checked(body.experiment, loaded(engine))
        standing = await the_board(request).start(experiment, body.reason)
    return ExperimentState.of(standing).response()


@routes.get("/{name}", response_model=ExperimentState)
async def state(name: str, request: Request) -> Response:
    """One experiment as it stands."""
    return ExperimentState.of(standing_of(the_board(request), name)).response()


@routes.patch("/{name}", response_model=ExperimentState)
async def change(name: str, body: ChangeRequest, request: Request, engine: WholeEngine) -> Response:
    """The experiment's next version; while it runs only its shares, its canary and its end can change."""
    board = the_board(request)
    standing = standing_of(board, name)
    with told():
        content = {**standing.experiment.model_dump(mode="json"), **body.experiment}
        if content["name"] != name:
            raise InputError(f"name: {name!r} keeps its name; start another experiment instead")
        if body.shares:
            if "arms" in body.experiment:
                raise InputError("shares and experiment.arms both say what the shares are; send one of them")
            content["arms"] = _shared(standing.experiment, body.shares)
        standing = await board.change(name, _checked(content, loaded(engine)), body.reason)
    return ExperimentState.of(standing).response()


@routes.delete("/{name}", response_model=ExperimentState)
async def stop(
    name: str, request: Request, reason: Annotated[str, Query(min_length=1, max_length=500)] = "stopped"
) -> Response:
    """End an experiment for good. What was recorded of it stays."""
    with told():
        standing = await the_board(request).stop(name, reason)
    return ExperimentState.of(standing).response()


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong inside as the answer that clients can tell apart by its code."""
    try:
        yield
    except UnknownExperimentError as error:
        raise unknown(error) from error
    except ExperimentConflictError as error:
        raise ApiError(409, f"{error}.", code="experiment_conflict") from error
    except InputError as error:
        raise ApiError(400, f"{error}.", param="experiment", code="experiment_refused") from error
    except VersionTakenError as error:
        raise ApiError(409, f"{error}.", code="experiment_conflict") from error
    except StoreError as error:
        raise ApiError(503, f"{error}.", code="not_kept", headers=RETRY_SOON) from error


def _checked(content: dict[str, Any], there: Sequence[Loaded]) -> Experiment:
    experiment = by_digest(parsed(content), there)
    check(experiment, there)
    return experiment


def _shared(experiment: Experiment, shares: dict[str, float]) -> list[dict[str, Any]]:
    """The arms with these shares in place of their own."""
    names = [arm.name for arm in experiment.arms]
    for name in shares:
        if name not in names:
            raise InputError(f"shares: there is no arm {name!r}; the arms are {', '.join(names)}")
    return [
        {**arm.model_dump(mode="json"), "share": shares.get(arm.name, arm.share)} for arm in experiment.arms
    ]
