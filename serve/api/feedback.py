"""POST /v1/feedback: what somebody says of one response of an experiment."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Request
from pydantic import BeforeValidator, Field, model_validator
from starlette.responses import Response

from serve.api.errors import RETRY_SOON, ApiError
from serve.api.fields import Text
from serve.api.responses import Sent
from serve.api.schemas import Body
from serve.api.trials import Trials
from serve.api.validation import field_error
from serve.experiments.board import Board, UnknownExperimentError
from serve.experiments.records import Feedback
from serve.experiments.spec import AUTOMATIC
from serve.experiments.store.errors import StoreError

# Of one body, reward and thumbs among them.
MOST_METRICS = 32
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# Names that are always taken: what chat programs have buttons for.
COMMON = ("reward", "thumbs")

routes = APIRouter()


def _metrics(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("it must be an object of names and numbers")
    if len(value) > MOST_METRICS:
        raise ValueError(f"it may hold up to {MOST_METRICS} metrics, not {len(value)}")
    for name, number in value.items():
        if not NAME.fullmatch(name):
            raise ValueError(
                "a metric's name is up to 64 letters, digits, '_', '.' and '-', the first a letter or digit"
            )
        if not isinstance(number, int | float):
            raise ValueError(f"the value of {name!r} must be a number, true or false")
    # In JSON a yes is as good as a one.
    return {name: float(value) if isinstance(value, bool) else value for name, value in value.items()}


Metrics = Annotated[dict[str, float], BeforeValidator(_metrics, dict[str, float | bool])]
Id = Annotated[Text, Field(min_length=1, max_length=128)]


class FeedbackRequest(Body):
    """key: the same key again replaces what it said of the response; by default the response's id, so that
    there is one opinion of each. thumbs: the metric ``thumbs``, 1 for up and 0 for down."""

    response_id: Id
    key: Id | None = None
    metrics: Metrics = Field(default_factory=dict)
    reward: float | None = None
    thumbs: Literal["up", "down"] | None = None

    @property
    def values(self) -> dict[str, float]:
        """All metrics by name."""
        found = dict(self.metrics)
        if self.reward is not None:
            found["reward"] = self.reward
        if self.thumbs is not None:
            found["thumbs"] = float(self.thumbs == "up")
        return found

    @model_validator(mode="after")
    def _says_something_once(self) -> Self:
        for name in COMMON:
            if getattr(self, name) is not None and name in self.metrics:
                raise field_error(name, f"'{name}' is given twice, once in 'metrics'.", "invalid_value")
        if not self.values:
            raise field_error(
                "metrics", "Send 'metrics', 'reward' or 'thumbs'.", "missing_required_parameter"
            )
        return self


class FeedbackTaken(Sent):
    """What was taken down, safely."""

    object: Literal["feedback"]
    response_id: str
    key: str
    experiment: str
    metrics: dict[str, float]


@routes.post("/v1/feedback", response_model=FeedbackTaken)
async def give(body: FeedbackRequest, request: Request) -> Response:
    """Give a response of an experiment marks, as early as its first token or much later. What is answered
    with 200 is kept."""
    trials: Trials = request.app.state.trials
    with told():
        experiment = await trials.experiment_of(body.response_id)
    if experiment is None:
        raise ApiError(
            404,
            "No response of that id is known here: it took part in no experiment, or was forgotten since.",
            param="response_id",
            code="response_not_found",
        )
    values, key = body.values, body.key or body.response_id
    _check(trials.board, experiment, values)
    with told():
        await trials.sink.put_durably(Feedback(body.response_id, key, time.time(), values))
    return FeedbackTaken(
        object="feedback", response_id=body.response_id, key=key, experiment=experiment, metrics=values
    ).response()


@contextmanager
def told() -> Iterator[None]:
    """A store that cannot do it now as a 503, which clients send again."""
    try:
        yield
    except StoreError as error:
        raise ApiError(503, f"{error}.", code="not_kept", headers=RETRY_SOON) from error


def _check(board: Board, name: str, values: dict[str, float]) -> None:
    """Raise ApiError 400 for a metric that the experiment does not have, or that cannot have the value."""
    for measured in AUTOMATIC:
        if measured in values:
            raise _refused(measured, f"'{measured}' is measured here and cannot be told.")
    if values.get("thumbs", 0) not in (0, 1):
        raise _refused("thumbs", "'thumbs' is 0 or 1.")
    try:
        metrics = {metric.name: metric for metric in board.get(name).experiment.metrics}
    except UnknownExperimentError:
        return  # forgotten, while its responses are not: whoever reads them will know
    for told, value in values.items():
        if told not in metrics and told not in COMMON:
            raise _refused(
                told, f"Experiment '{name}' has no metric '{told}'; it takes {_listed([*metrics, *COMMON])}."
            )
        if told in metrics and metrics[told].kind == "binary" and value not in (0, 1):
            raise _refused(told, f"'{told}' is binary: 0 or 1, false or true.")


def _refused(name: str, message: str) -> ApiError:
    return ApiError(400, message, param=f"metrics.{name}", code="invalid_value")


def _listed(names: Iterable[str]) -> str:
    told = (name for name in names if name not in AUTOMATIC)
    return ", ".join(f"'{name}'" for name in dict.fromkeys(told))
