"""Who comes in: as many answers at a time as the engine's slots and a bounded queue hold."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable

from serve.api.drain import DrainRate
from serve.api.errors import ApiError
from serve.api.gatemetrics import GateMetrics
from serve.api.limits import Limits

# Seconds; openai's client passes over a Retry-After of more than a minute.
SHORTEST, LONGEST = 1, 60


class Admission:
    """Counts answers in the making, of everybody and of each caller. Used by the event loop alone."""

    def __init__(
        self,
        limits: Limits,
        slots: int,
        metrics: GateMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slots, self.capacity = slots, slots + limits.queue
        self.concurrency = limits.concurrency
        bounds = [self.capacity, *(most for most in (limits.answers, limits.concurrency) if most)]
        self.largest = min(bounds)
        self.metrics = metrics
        self.callers: Counter[str] = Counter()
        self.drain = DrainRate(clock)

    def enter(self, caller: str, answers: int) -> None:
        """Let ``answers`` of one request in, all or none.

        Raises ApiError 400 for more than would ever be let in, 429 for more than fit now.
        """
        if answers > self.largest:
            raise self._refused(
                "answers",
                ApiError(
                    400,
                    f"The request asks for {answers} answers, prompts times 'n', and {self.largest} are"
                    " the most here; send it in parts.",
                    param="n",
                    code="too_many_answers",
                ),
            )
        if self.concurrency is not None and self.callers[caller] + answers > self.concurrency:
            raise self._refused(
                "concurrency",
                self._later(
                    f"You have {self.callers[caller]} answers in the making, and {self.concurrency} are the"
                    " most for one caller; wait for some of them.",
                    "concurrency_limit_exceeded",
                ),
            )
        if self.metrics.admitted + answers > self.capacity:
            raise self._refused(
                "queue",
                self._later("The server has its hands full; send the request again later.", "queue_full"),
            )
        if not self.metrics.admitted:
            self.drain.begin()
        self.metrics.admitted += answers
        self.callers[caller] += answers

    def leave(self, caller: str, answers: int) -> None:
        """What was let in is done with, however it ended."""
        self.metrics.admitted -= answers
        self.callers[caller] -= answers
        if not self.callers[caller]:
            del self.callers[caller]
        self.drain.finish(answers, last=not self.metrics.admitted)

    def _later(self, message: str, code: str) -> ApiError:
        # All that waits now has gone by then: an earlier hour would only bring a crowd.
        seconds = self.drain.seconds(max(1, self.metrics.admitted - self.slots)) or SHORTEST
        wait = min(max(math.ceil(seconds), SHORTEST), LONGEST)
        return ApiError(429, message, code=code, headers={"Retry-After": str(wait)})

    def _refused(self, reason: str, error: ApiError) -> ApiError:
        self.metrics.refused[reason] += 1
        return error


class Ticket:
    """What one HTTP request holds of the admission. caller: a key's name or an address."""

    def __init__(self, admission: Admission, caller: str) -> None:
        self.admission, self.caller, self.answers = admission, caller, 0

    def enter(self, answers: int) -> None:
        """Let the request in with that many answers, once. Raises as ``Admission.enter``."""
        self.admission.enter(self.caller, answers)
        self.answers = answers

    def leave(self) -> None:
        """The request has ended."""
        if self.answers:
            self.admission.leave(self.caller, self.answers)
            self.answers = 0
