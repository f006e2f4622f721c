"""The store's counters, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serve.experiments.store.courier import Courier
from serve.experiments.store.spool import Spool
from serve.experiments.store.writer import Writer

PREFIX = "twinserve_experiment"


class StoreMetrics(Collector):
    """Read at each scrape; integers that other threads count up need no lock."""

    def __init__(self, writer: Writer, courier: Courier, spool: Spool, bound: int) -> None:
        self.writer, self.courier, self.spool, self.bound = writer, courier, spool, bound

    def collect(self) -> Iterator[Metric]:
        writer, courier, spool = self.writer, self.courier, self.spool
        yield _gauge("records_queued", "Records that are not on disk yet.", writer.queued)
        yield _gauge("spool_bytes", "Bytes of records that the database does not have.", spool.bytes)
        yield _gauge("spool_bound_bytes", "Bytes from which on records are dropped.", self.bound)
        dropped = CounterMetricFamily(
            f"{PREFIX}_records_dropped", "Records that were not kept.", labels=["reason"]
        )
        for reason, count in sorted(dict(writer.dropped).items()):
            dropped.add_metric([reason], count)
        yield dropped
        yield _counter("records_delivered", "Records that the database took.", courier.delivered)
        yield _counter("records_refused", "Records that it can never take.", courier.refused)
        yield _counter("records_deleted", "Rows that were too old.", courier.purged)
        if courier.failed is not None:
            age = time.monotonic() - courier.failed
            yield _gauge("database_error_age_seconds", "Since the database last failed.", age)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)
