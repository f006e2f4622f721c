"""How long a client is ready to wait."""

from __future__ import annotations

import math

from fastapi import Request

from serve.api.errors import ApiError

HEADER = "x-request-timeout"


def request_timeout(http: Request) -> float | None:
    """Seconds that the request's own header gives it; None without one.

    It can only shorten the server's ``request_timeout``: the engine takes the smaller. Raises ApiError 400
    for anything but a positive number.
    """
    text = http.headers.get(HEADER)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ApiError(
            400, f"The header {HEADER} must be a positive number of seconds.", code="invalid_value"
        )
    return seconds
