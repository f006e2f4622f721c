"""GET /v1/experiments: which experiments there are, and how many took part; for everybody who may ask."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from serve.api.errors import ApiError
from serve.api.responses import Sent
from serve.api.trials import Trials
from serve.experiments.board import Board, UnknownExperimentError
from serve.experiments.exposure import Ratio
from serve.experiments.records import State
from serve.experiments.standing import Standing

routes = APIRouter()


class ArmInfo(Sent):
    """One arm. share: of the units that take part. units, responses: since this process began to serve this
    version of the experiment; units are distinct ones."""

    name: str
    model: str
    share: float
    units: int
    responses: int


class MetricInfo(Sent):
    """What arms are compared by."""

    name: str
    direction: Literal["higher", "lower"]
    kind: Literal["binary", "numeric"]
    guardrail: float | None


class SampleRatio(Sent):
    """p_value: of the units by arm against the arms' shares, null while they are too few. alarm: it is below
    0.001: do not trust the experiment's figures."""

    p_value: float | None
    alarm: bool


class ExperimentInfo(Sent):
    """One experiment, without what would tell who takes part. canary: where its canary is, in words; null
    without one."""

    name: str
    version: int
    state: State
    unit: Literal["user", "session", "request"]
    control: str
    arms: list[ArmInfo]
    metrics: list[MetricInfo]
    srm: SampleRatio
    canary: str | None


class ExperimentList(Sent):
    object: Literal["list"]
    data: list[ExperimentInfo]


@routes.get("/v1/experiments", response_model=ExperimentList)
async def list_experiments(request: Request) -> Response:
    """Every experiment, in the order in which they began."""
    board = the_board(request)
    data = [info(board, standing) for standing in board.all()]
    return ExperimentList(object="list", data=data).response()


def the_board(request: Request) -> Board:
    """The app's experiments."""
    trials: Trials = request.app.state.trials
    return trials.board


def standing_of(board: Board, name: str) -> Standing:
    """One experiment as it stands. Raises ApiError 404."""
    try:
        return board.get(name)
    except UnknownExperimentError as error:
        raise unknown(error) from error


def unknown(error: UnknownExperimentError) -> ApiError:
    """What the client is told about it."""
    return ApiError(404, f"{error.args[0]}.", param="name", code="experiment_not_found")


def info(board: Board, standing: Standing) -> ExperimentInfo:
    """What everybody may know of an experiment."""
    experiment, exposure = standing.experiment, board.exposures[standing.name]
    units, ratio = exposure.units, Ratio(exposure.mismatch(standing.arms.sizes))
    return ExperimentInfo(
        name=experiment.name,
        version=standing.version,
        state=standing.state,
        unit=experiment.unit,
        control=experiment.baseline,
        arms=[
            ArmInfo(
                name=arm.name,
                model=arm.model,
                share=arm.share,
                units=units.get(arm.name, 0),
                responses=exposure.responses[arm.name],
            )
            for arm in experiment.arms
        ],
        metrics=[
            MetricInfo(
                name=metric.name, direction=metric.direction, kind=metric.kind, guardrail=metric.guardrail
            )
            for metric in experiment.metrics
        ],
        srm=SampleRatio(p_value=ratio.p_value, alarm=ratio.alarm),
        canary=standing.canary,
    )
