"""What the engine has done, for Prometheus: read from its own counters at each scrape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from serve.engine import Engine


def registry(engine: Engine) -> CollectorRegistry:
    """A registry of its own, so that several engines in one process do not meet."""
    made = CollectorRegistry()
    made.register(EngineMetrics(engine))
    return made


class EngineMetrics(Collector):
    """The engine's counters. Reading an integer that another thread counts up needs no lock."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterator[Metric]:
        engine = self.engine
        scheduler, planner, prefixes = engine.scheduler, engine.planner, engine.prefixes
        yield _gauge("requests_running", "Requests that have a slot.", len(scheduler.running))
        yield _gauge("requests_waiting", "Requests that wait for one.", len(scheduler.waiting))
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


def _labelled(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"twinserve_{name}", text, labels=[label])
    for value, count in sorted(values.items()):
        family.add_metric([value], count)
    return family
