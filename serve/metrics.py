"""What the engine has done, for Prometheus: read from its own counters at each scrape.

Latencies and the router's choices are counted as they happen, by serve/observer.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from compress.bundle import library_versions

if TYPE_CHECKING:
    from serve.engine import Engine


class EngineMetrics(Collector):
    """The engine's counters. Reading an integer that another thread counts up needs no lock."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.build = library_versions() | {"model_name": engine.name}

    def collect(self) -> Iterator[Metric]:
        engine = self.engine
        scheduler, planner, prefixes = engine.scheduler, engine.planner, engine.prefixes
        yield InfoMetricFamily("twinserve_build", "What serves, and with which libraries.", value=self.build)
        # One look, so that these sums always agree: received = ended + running + waiting.
        balance = engine.observer.ledger.balance()
        yield _counter("requests_received", "Requests that the engine took.", balance.received)
        yield _gauge("requests_running", "Requests that have a slot.", len(balance.running))
        yield _gauge("requests_waiting", "Requests that wait for one.", len(balance.waiting))
        ended = CounterMetricFamily("twinserve_requests", "Requests that ended.", labels=["arm", "outcome"])
        for key, count in sorted(balance.ended.items()):
            ended.add_metric(key, count)
        yield ended
        share = scheduler.cost(len(scheduler.running), scheduler.longest) / scheduler.kv_bytes
        # The engine may admit or end a request between the two readings.
        yield from engine.observer.registry.collect()
        yield from engine.observer.vllm.at(balance, min(1.0, share), len(engine.tasks))
        yield _gauge("kv_bytes", "Bytes of keys and values held.", engine.steps.cache.nbytes)
        yield _gauge("prefix_bytes", "Bytes of remembered prefixes.", prefixes.nbytes)
        yield _gauge("composed_bytes", "Bytes of composed weights.", planner.composed_bytes)
        yield _counter("generated_tokens", "Tokens of answers.", engine.steps.generated)
        yield _labelled("passes", "Forward passes, by how mixtures were computed.", "kind", planner.passes)
        yield _labelled("kernels", "Kernels of factored passes.", "kernel", planner.kernels)
        yield _labelled("composed_lookups", "Composed weights asked for.", "result", planner.lookups)
        tokens = {"hit": prefixes.hits, "miss": prefixes.misses}
        yield _labelled("prefix_tokens", "Prompt tokens looked up in the prefix cache.", "result", tokens)
        routes = {"hit": engine.chooser.hits, "miss": engine.chooser.misses}
        yield _labelled("router_prompts", "Prompts routed: remembered or scored.", "result", routes)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"twinserve_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"twinserve_{name}", text, value=value)


def _labelled(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"twinserve_{name}", text, labels=[label])
    # A copy: the engine may see a value for the first time meanwhile.
    for value, count in sorted(dict(values).items()):
        family.add_metric([value], count)
    return family
