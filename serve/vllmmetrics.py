"""The names under which inference gateways and dashboards look for an engine's load: vLLM's.

Gateway API Inference Extension picks replicas by the first four; vLLM's own dashboards show the others.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from pydantic import BaseModel, ConfigDict, Field

from serve.ledger import Balance, experts
from serve.times import Outcome

# Seconds; the bounds are vLLM's, so that quantiles of several engines can be taken together.
FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
BETWEEN_TOKENS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
WHOLE_REQUEST = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
    120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
FINISHED: dict[Outcome, str] = {
    "stop": "stop", "length": "length", "cancelled": "abort", "failed": "error", "deadline": "error",
}  # fmt: skip


class MetricsSettings(BaseModel):
    """Prometheus' metrics."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    prefix: str = Field(default="vllm:", pattern="^([a-zA-Z_:][a-zA-Z0-9_:]*)?$")
    """Before the names that vLLM gives its metrics; gateways look for `vllm:num_requests_waiting`."""


class VllmMetrics:
    """Counters and histograms for one model's engine, and the gauges of a moment. model: its id."""

    def __init__(self, registry: CollectorRegistry, prefix: str, model: str) -> None:
        self.prefix, self.model = prefix, model

        def counter(name: str, text: str) -> Counter:
            return Counter(f"{prefix}{name}", text, ["model_name"], registry=registry).labels(model)

        def histogram(name: str, text: str, bounds: Iterable[float]) -> Histogram:
            made = Histogram(
                f"{prefix}{name}", text, ["model_name"], buckets=tuple(bounds), registry=registry
            )
            return made.labels(model)

        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts that were prefilled.")
        self.generation_tokens = counter("generation_tokens", "Tokens of answers.")
        self.first_token = histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token.", FIRST_TOKEN
        )
        self.between_tokens = histogram(
            "inter_token_latency_seconds", "From one token of an answer to the next.", BETWEEN_TOKENS
        )
        self.whole_request = histogram(
            "e2e_request_latency_seconds",
            "From arrival to the last token, of requests that finished.",
            WHOLE_REQUEST,
        )

    def at(self, balance: Balance, kv_share: float, most_experts: int) -> Iterable[Metric]:
        """What holds now. kv_share: of the memory for keys and values, in [0, 1]."""
        yield self._gauge("num_requests_waiting", "Requests that wait for a slot.", len(balance.waiting))
        yield self._gauge("num_requests_running", "Requests that have a slot.", len(balance.running))
        yield self._gauge("kv_cache_usage_perc", "Share of kv_memory that running requests take.", kv_share)
        adapters = GaugeMetricFamily(
            f"{self.prefix}lora_requests_info",
            "Experts of running and of waiting requests; the value is the unix time.",
            labels=["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
        )
        names = [",".join(experts(jobs)) for jobs in (balance.running, balance.waiting)]
        adapters.add_metric([str(most_experts), *names], time.time())
        yield adapters
        ended = CounterMetricFamily(
            f"{self.prefix}request_success", "Requests that ended.", labels=["model_name", "finished_reason"]
        )
        reasons: Tally[str] = Tally(dict.fromkeys(FINISHED.values(), 0))
        for (_, outcome), count in balance.ended.items():
            reasons[FINISHED[outcome]] += count
        for reason, count in reasons.items():
            ended.add_metric([self.model, reason], count)
        yield ended

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"{self.prefix}{name}", text, labels=["model_name"])
        family.add_metric([self.model], value)
        return family
