"""Told by the engine what happens to its requests: keeps their times, and counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

from serve.job import Job
from serve.ledger import Ledger
from serve.times import Outcome
from serve.vllmmetrics import FIRST_TOKEN, VllmMetrics

CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
STEP_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Observer:
    """``arrived`` may be called from any thread, the others from an engine's alone. Generations of one
    endpoint share one, so that counters go on when bundles are switched.

    prefix: of the names that vLLM gives its metrics. model: its id.
    """

    def __init__(self, prefix: str, model: str, clock: Callable[[], float] = time.monotonic) -> None:
        registry = self.registry = CollectorRegistry()
        self.ledger, self.vllm, self.clock = Ledger(), VllmMetrics(registry, prefix, model), clock
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
        """The engine takes the request; from now on it waits."""
        job.times.arrived = self.clock()
        self.ledger.arrived(job)

    def routed(self, jobs: Sequence[Job], began: float) -> None:
        """The router has chosen for these requests. began: on the observer's clock."""
        now = self.clock()
        for job in jobs:
            job.times.routing, job.times.routed = began, now
            routing = job.routing
            if routing is None or routing.confidence is None:
                continue
            self.confidence.observe(routing.confidence)
            for expert, weight in routing.experts.items():
                self.weight.labels(expert).inc(weight)
            if not routing.experts:
                self.abstentions.inc()

    def admitted(self, job: Job) -> None:
        """The request has a slot."""
        now = job.times.admitted = self.clock()
        self.queue.observe(now - _known(job.times.arrived))
        self.ledger.admitted(job)

    def stepped(self, tokens: int) -> None:
        """One step of the model was computed."""
        self.step_tokens.observe(tokens)

    def prefilled(self, job: Job) -> None:
        """All of the prompt has been computed, or was known."""
        self.vllm.prompt_tokens.inc(len(job.request.prompt))

    def token(self, job: Job) -> None:
        """The answer has one token more."""
        now, times = self.clock(), job.times
        self.vllm.generation_tokens.inc()
        if times.latest is None:
            times.first = now
            self.vllm.first_token.observe(now - _known(times.arrived))
        else:
            self.vllm.between_tokens.observe(now - times.latest)
        times.latest = now

    def ended(self, job: Job, outcome: Outcome) -> None:
        """The request is gone from the engine."""
        now = job.times.ended = self.clock()
        job.times.outcome = outcome
        if outcome in ("stop", "length"):
            self.vllm.whole_request.observe(now - _known(job.times.arrived))
        self.ledger.ended(job, outcome)


def _known(moment: float | None) -> float:
    assert moment is not None
    return moment
