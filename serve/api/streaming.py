"""Server-sent events: answers on the wire while they are generated."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any, Protocol

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serve.api.backlog import Tagged
from serve.api.disconnect import ClientGone, until_disconnect
from serve.api.errors import as_api_error
from serve.api.gate import StalledReader
from serve.api.responses import ChatChunk, Completion, Usage
from serve.api.tally import Tally
from serve.request import Event

log = logging.getLogger(__name__)

DONE = "data: [DONE]\n\n"
# Proxies must pass tokens on as they come; nginx only does when told so by this header.
STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}

EVENT = {
    "type": "object",
    "properties": {"data": {"type": "string", "description": "A chunk as JSON, an error as JSON, or [DONE]"}},
    "required": ["data"],
}
# For the document: a route that streams may answer with either type.
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": EVENT}}}}

Chunk = Completion | ChatChunk


class ChunkForm(Protocol):
    """How one route writes events as chunks."""

    def chunks(self, index: int, event: Event, *, first: bool) -> Iterable[Chunk]:
        """The chunks of one event; ``first`` marks the first event of an answer."""
        ...

    def usage_chunk(self, usage: Usage) -> Chunk:
        """The chunk without choices that counts tokens."""
        ...


async def sse(
    form: ChunkForm,
    opening: Tagged,
    rest: AsyncGenerator[Tagged, None],
    *,
    tally: Tally,
    include_usage: bool,
    request_id: str,
) -> AsyncGenerator[str, None]:
    """Chunks as ``data:`` lines up to ``[DONE]``; after an error, the error and nothing more.

    opening: the event that was awaited before the response began. With ``include_usage`` every
    chunk has a null ``usage`` and one last chunk holds the counts, as OpenAI documents it.
    """
    begun: set[int] = set()

    def lines(tagged: Tagged) -> Iterable[str]:
        index, event = tagged
        tally.add(index, len(event.token_ids), event.cached_tokens)
        for chunk in form.chunks(index, event, first=index not in begun):
            if include_usage:
                chunk.usage = None
            yield f"data: {chunk.json_text()}\n\n"
        begun.add(index)

    try:
        for line in lines(opening):
            yield line
        async for tagged in rest:
            for line in lines(tagged):
                yield line
        if include_usage:
            yield f"data: {form.usage_chunk(tally.usage).json_text()}\n\n"
        yield DONE
    except Exception as error:
        yield f"data: {as_api_error(error, request_id).json_text()}\n\n"


class EventStream(StreamingResponse):
    """A stream that stops its source as soon as the client is gone.

    source: the events that ``lines`` reads. It is closed here, because a generator that was never
    started (the client left before the first line) runs no cleanup of its own. The framework's
    response would leave it to the garbage collector.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        lines: AsyncGenerator[str, None],
        source: AsyncGenerator[Tagged, None],
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(lines, headers={**headers, **STREAM_HEADERS})
        self.lines = lines
        self.source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await until_disconnect(receive, self.stream_response(send))
        except ClientGone:
            log.info("request %s: the client left", scope["state"]["request_id"])
        except StalledReader:
            pass  # told by the gate; the server closes what is not complete
        finally:
            await self.lines.aclose()
            await self.source.aclose()
