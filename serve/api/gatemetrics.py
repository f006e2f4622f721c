"""What was let in and what was not, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

# Named beforehand, so that each is there with 0 before it first happens.
REASONS = ("answers", "body", "concurrency", "key", "prompt_tokens", "queue", "rate")


class GateMetrics(Collector):
    """Counters of one application. Written by the event loop alone.

    admitted: answers in the making. refused: requests, by reason. stalled: readers that were disconnected.
    """

    def __init__(self) -> None:
        self.admitted = 0
        self.refused: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self.stalled = 0

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("twinserve_admitted_answers", "Answers let in and not done.", self.admitted)
        refused = CounterMetricFamily(
            "twinserve_refused_requests", "Requests that were not let in.", labels=["reason"]
        )
        for reason, count in sorted(self.refused.items()):
            refused.add_metric([reason], count)
        yield refused
        yield CounterMetricFamily(
            "twinserve_stalled_readers", "Streams cut because nobody read them.", self.stalled
        )
