"""POST /v1/route: what the router thinks, without an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from router import Route, user_turns
from serve.api.deadline import request_timeout
from serve.api.disconnect import until_disconnect
from serve.api.errors import ApiError
from serve.api.prompts import chat_turns, check_characters, check_routable
from serve.api.responses import RouteScore, RouteScores
from serve.api.schemas import RouteRequest
from serve.api.surface import EngineSurface, ReadyEngine
from serve.job import DeadlineError
from serve.request import Target

# Texts that are scored in one go, and count as one answer.
BATCH = 16

routes = APIRouter()


@routes.post("/v1/route", response_model=RouteScores)
async def route(body: RouteRequest, http: Request, engine: ReadyEngine) -> Response:
    """Probabilities and mixture for each text of ``input``, or for one conversation."""
    conversations = _conversations(body)
    timeouts = [http.app.state.settings.request_timeout, request_timeout(http)]
    for turns in conversations:
        check_characters(engine, sum(map(len, turns)), "input" if body.messages is None else "messages")
    http.state.ticket.enter(-(-len(conversations) // BATCH))
    try:
        async with asyncio.timeout(min((seconds for seconds in timeouts if seconds), default=None)):
            found = await until_disconnect(http.receive, _scored(engine, conversations))
    except TimeoutError as error:
        raise DeadlineError("the texts were not scored in time; send fewer at once") from error
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


async def _scored(engine: EngineSurface, conversations: Sequence[tuple[str, ...]]) -> list[Route]:
    """A few at a time: others' tokens come in between, and who leaves leaves the rest."""
    found: list[Route] = []
    for start in range(0, len(conversations), BATCH):
        found += await engine.route(conversations[start : start + BATCH])
    return found


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
