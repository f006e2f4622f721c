"""Told by the engine what happens to its requests: keeps their times, and counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram

from serve.job import Job
from serve.ledger import Ledger
from serve.times import Outcome
from serve.vllmmetrics import FIRST_TOKEN, VllmMetrics

CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
STEP_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Timekeeper:
    """Keeps the requests' times and counts nothing: for those that no figure is about."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock

    def arrived(self, job: Job) -> None:
        """The engine takes the request; from now on it waits."""
        job.times.arrived = self.clock()

    def routed(self, job: Job, began: float) -> None:
        """The router has chosen for the request. began: on the observer's clock."""
        job.times.routing, job.times.routed = began, self.clock()

    def admitted(self, job: Job) -> None:
        """The request has a slot."""
        job.times.admitted = self.clock()

    def stepped(self, tokens: int) -> None:
        """One step of the model was computed."""

    def prefilled(self, job: Job) -> None:
        """All of the prompt has been computed, or was known."""

    def token(self, job: Job) -> None:
        """The answer has one token more."""
        now = job.times.latest = self.clock()
        if job.times.first is None:
            job.times.first = now

    def ended(self, job: Job, outcome: Outcome) -> None:
        """The request is gone from the engine."""
        job.times.ended, job.times.outcome = self.clock(), outcome


class Observer(Timekeeper):
    """Counts, too. ``arrived`` may be called from any thread, the others from an engine's alone. Generations
    of one endpoint share one, so that counters go on when bundles are switched.

    prefix: of the names that vLLM gives its metrics. model: its id.
    """

    def __init__(self, prefix: str, model: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        registry = self.registry = CollectorRegistry()
        self.ledger, self.vllm = Ledger(), VllmMetrics(registry, prefix, model)
        self.weight = Counter(
            "twinserve_routed_weight",
            "Sum of the mixture weights that the router gave to an expert.",
            ["expert"],
            registry=registry,
        )
        self.abstentions = Counter(
            "twinserve_abstentions", "Requests that the router trusted no expert with.", registry=registry
        )
        self.confidence = Histogram(
            "twinserve_router_confidence",
            "The router's highest probability for a request.",
            buckets=CONFIDENCE,
            registry=registry,
        )
        self.queue = Histogram(
            "twinserve_queue_seconds",
            "From a request's arrival to its slot, routing included.",
            buckets=FIRST_TOKEN,
            registry=registry,
        )
        self.step_tokens = Histogram(
            "twinserve_step_tokens",
            "Tokens of one step, prompts and answers together.",
            buckets=STEP_TOKENS,
            registry=registry,
        )

    def knows(self, experts: Iterable[str]) -> None:
        """These experts may be routed to: from now on they are told, with zero where they never were."""
        for expert in experts:
            self.weight.labels(expert)

    def arrived(self, job: Job) -> None:
        super().arrived(job)
        self.ledger.arrived(job)

    def routed(self, job: Job, began: float) -> None:
        super().routed(job, began)
        routing = job.routing
        if routing is None or routing.confidence is None:
            return
        self.confidence.observe(routing.confidence)
        for expert, weight in routing.experts.items():
            self.weight.labels(expert).inc(weight)
        if not routing.experts:
            self.abstentions.inc()

    def admitted(self, job: Job) -> None:
        super().admitted(job)
        self.queue.observe(_known(job.times.admitted) - _known(job.times.arrived))
        self.ledger.admitted(job)

    def stepped(self, tokens: int) -> None:
        self.step_tokens.observe(tokens)

    def prefilled(self, job: Job) -> None:
        self.vllm.prompt_tokens.inc(len(job.request.prompt))

    def token(self, job: Job) -> None:
        before = job.times.latest
        super().token(job)
        now = _known(job.times.latest)
        self.vllm.generation_tokens.inc()
        if before is None:
            self.vllm.first_token.observe(now - _known(job.times.arrived))
        else:
            self.vllm.between_tokens.observe(now - before)

    def ended(self, job: Job, outcome: Outcome) -> None:
        super().ended(job, outcome)
        if outcome in ("stop", "length"):
            self.vllm.whole_request.observe(_known(job.times.ended) - _known(job.times.arrived))
        self.ledger.ended(job, outcome)


def _known(moment: float | None) -> float:
    assert moment is not None
    return moment
