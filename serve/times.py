"""When the engine did what with one request: what latencies, queue times and spans are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# How a request ended; "failed" is the engine's fault.
Outcome = Literal["stop", "length", "cancelled", "failed", "deadline"]


@dataclass
class Times:
    """Seconds of time.monotonic, written by the engine as it goes; None: not reached, or never happens.

    arrived: the engine took the request. routing, routed: its batch of the router began and was done; never
    for requests that name their weights. admitted: it got its slot. first: its first token was picked.
    latest: its last one so far. ended: its slot was free again, with ``outcome``. working: seconds of passes
    that it took part in, of background requests alone, which wait in between.
    """

    arrived: float | None = None
    routing: float | None = None
    routed: float | None = None
    admitted: float | None = None
    first: float | None = None
    latest: float | None = None
    ended: float | None = None
    outcome: Outcome | None = None
    working: float = 0.0
