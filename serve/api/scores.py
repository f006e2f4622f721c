"""POST /v1/route: what the router thinks, without an answer."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from router import user_turns
from serve.api.disconnect import until_disconnect
from serve.api.errors import ApiError
from serve.api.prompts import chat_turns, check_routable
from serve.api.responses import RouteScore, RouteScores
from serve.api.schemas import RouteRequest
from serve.api.surface import ReadyEngine
from serve.request import Target

routes = APIRouter()


@routes.post("/v1/route", response_model=RouteScores)
async def route(body: RouteRequest, http: Request, engine: ReadyEngine) -> Response:
    """Probabilities and mixture for each text of ``input``, or for one conversation."""
    conversations = _conversations(body)
    http.state.ticket.enter(1)
    found = await until_disconnect(http.receive, engine.route(conversations))
    return RouteScores(
        object="list",
        data=[
            RouteScore(
                index=index,
                probabilities=one.probabilities,
                mixture=one.mixture,
                confidence=one.confidence,
                known=one.known,
            )
            for index, one in enumerate(found)
        ],
    ).response()


def _conversations(body: RouteRequest) -> list[tuple[str, ...]]:
    if (body.input is None) == (body.messages is None):
        raise ApiError(
            400,
            "Send either 'input' or 'messages'.",
            param="input",
            code="missing_required_parameter" if body.input is None else "invalid_value",
        )
    if body.messages is None:
        return [user_turns(text) for text in body.input or []]
    turns = chat_turns(body.messages)
    check_routable(Target("dynamic"), turns, "messages")
    return [turns]
