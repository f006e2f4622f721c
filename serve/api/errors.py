"""Every error as OpenAI's clients expect it: ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from compress.errors import InputError
from serve.api.disconnect import ClientGone
from serve.api.validation import refusal, sendable
from serve.grammar import GrammarError
from serve.job import DeadlineError, EngineError, NotReadyError

log = logging.getLogger(__name__)

# Nobody reads this answer; the number is nginx's for "client closed the request".
CLIENT_CLOSED_REQUEST = 499
# Characters of a message, which may repeat what a client sent.
MOST_SAID = 2000
RETRY_SOON = {"Retry-After": "1"}


class ApiError(Exception):
    """An answer other than 200.

    message: one sentence for the client's developer. param: the field at fault. code: a word that
    programs can compare.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON object sent, in a response or in a stream."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {
            "error": {
                "message": _short(sendable(self.message)),
                "type": kind,
                "param": None if self.param is None else _short(sendable(self.param)),
                "code": self.code,
            }
        }

    def json_text(self) -> str:
        return json.dumps(self.body)

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


def as_api_error(error: Exception, request_id: str) -> ApiError:
    """What the client is told about ``error``.

    Bad input is a 400. What the engine could not finish is a 503, which clients send again, or a 504
    where it was too late. The rest is our fault: it is logged under the request id, and the client
    gets no internals.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, GrammarError):
        return ApiError(400, str(error), param="response_format", code="invalid_value")
    if isinstance(error, InputError):
        return ApiError(400, str(error))
    if isinstance(error, DeadlineError):
        return ApiError(504, str(error), code="deadline_exceeded")
    if isinstance(error, NotReadyError):
        return ApiError(503, str(error), code="not_ready", headers=RETRY_SOON)
    if isinstance(error, EngineError):
        log.warning("request %s: %s", request_id, error)
        return ApiError(503, str(error), code="engine_failed", headers=RETRY_SOON)
    log.error("request %s failed", request_id, exc_info=error)
    return ApiError(
        500, f"The server failed on request {request_id}; its log says why.", code="internal_error"
    )


def install(app: FastAPI) -> None:
    """Turn the framework's own errors, and ours, into one shape; RequestIds handles the rest."""

    async def on_known_error(request: Request, error: Exception) -> Response:
        return as_api_error(error, request.state.request_id).response()

    for kind in (ApiError, InputError, EngineError):
        app.add_exception_handler(kind, on_known_error)

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(_: Request, error: RequestValidationError) -> Response:
        why = refusal(error.errors()[0])
        return ApiError(400, why.message, param=why.param, code=why.code).response()

    @app.exception_handler(ClientGone)
    async def on_client_gone(_: Request, error: ClientGone) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        where = f"{request.method} {request.url.path}"
        if error.status_code == 404:
            message, code = f"There is no route {where}.", "unknown_url"
        elif error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            message, code = f"{where} is not allowed; use {allowed}.", "method_not_allowed"
        elif error.status_code == 400:
            # All that the framework says of a body that breaks its JSON parser.
            message, code = "The body is not JSON: it is not UTF-8, or is nested too deeply.", None
        else:
            message, code = f"{error.detail}.", None
        return ApiError(error.status_code, message, code=code, headers=error.headers).response()


def _short(text: str) -> str:
    """One line: a field's name, say, may hold line breaks, and errors are sentences."""
    cut = text if len(text) <= MOST_SAID else f"{text[:MOST_SAID]}…"
    return cut if cut.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut)
