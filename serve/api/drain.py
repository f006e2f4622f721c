"""How fast answers are finished, to tell those who are refused when to come again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

# Seconds over which the past is forgotten, by a factor of e.
MEMORY = 30.0


class DrainRate:
    """Answers finished per second, as an exponential average over the time in which any was in the making.

    Idle time does not count: what the engine can do is not forgotten overnight. A finished answer adds
    1 / MEMORY, which fades with exp(-t / MEMORY); the sum is divided by 1 - exp(-t / MEMORY) of all busy
    time t, without which the first minute would be taken for slow (the bias correction of Adam, Kingma
    and Ba 2015).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sum = self._busy = 0.0
        self._since: float | None = None

    def begin(self) -> None:
        """Something is in the making from now on."""
        self._since = self._clock()

    def finish(self, answers: int, *, last: bool) -> None:
        """``answers`` are finished; ``last``: nothing is in the making any more."""
        self._advance()
        self._sum += answers / MEMORY
        if last:
            self._since = None

    def seconds(self, waiting: int) -> float | None:
        """How long ``waiting`` answers will take; None while nothing is known."""
        self._advance()
        known = 1 - math.exp(-self._busy / MEMORY)
        return waiting * known / self._sum if self._sum else None

    def _advance(self) -> None:
        if self._since is None:
            return
        now = self._clock()
        passed, self._since = now - self._since, now
        self._busy += passed
        self._sum *= math.exp(-passed / MEMORY)
