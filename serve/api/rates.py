"""How many requests a caller may send in a time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import limits
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from serve.api.errors import ApiError

# Callers remembered before those who have been away are looked for.
FEW_CALLERS = 1000


class Rates:
    """Moving windows in this process's memory, one a rate and caller. rates: as ``limits`` reads them."""

    def __init__(self, rates: Sequence[str]) -> None:
        self._items = [limits.parse(rate) for rate in rates]
        self._storage = MemoryStorage()
        self._limiter = MovingWindowRateLimiter(self._storage)
        self._sweep_at = FEW_CALLERS

    def take(self, caller: str) -> dict[str, str]:
        """Count one request; the headers that tell what is left of the tightest rate, by OpenAI's names.

        Raises ApiError 429 when a rate is used up; then nothing is counted.
        """
        if not self._items:
            return {}
        self._forget_the_absent()
        for item in self._items:
            if not self._limiter.test(item, caller):
                seconds = self._limiter.get_window_stats(item, caller).reset_time - time.time()
                raise ApiError(
                    429,
                    f"More than {item.amount} requests in {_window(item)}; send this one again later.",
                    code="rate_limit_exceeded",
                    headers={"Retry-After": str(max(1, math.ceil(seconds))), **_headers(item.amount, 0)},
                )
        left = {}
        for item in self._items:
            self._limiter.hit(item, caller)
            left[item.amount] = self._limiter.get_window_stats(item, caller).remaining
        amount = min(left, key=left.__getitem__)
        return _headers(amount, left[amount])

    def _forget_the_absent(self) -> None:
        # The library empties a caller's window in time but keeps the caller: addresses would pile up.
        if len(self._storage.events) >= self._sweep_at:
            for caller in [caller for caller, events in self._storage.events.items() if not events]:
                self._storage.clear(caller)
            self._sweep_at = max(FEW_CALLERS, 2 * len(self._storage.events))


def _headers(limit: int, remaining: int) -> dict[str, str]:
    return {"x-ratelimit-limit-requests": str(limit), "x-ratelimit-remaining-requests": str(remaining)}


def _window(item: limits.RateLimitItem) -> str:
    seconds = item.get_expiry()
    return "a second" if seconds == 1 else f"{seconds} seconds"
