"""What experiments count, for Prometheus. Arms and experiments are named by whoever administers the endpoint,
so there are as many series as they make."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serve.experiments.board import Board
from serve.experiments.canary import share_of
from serve.vllmmetrics import WHOLE_REQUEST


class ExperimentMetrics:
    """Written by the event loop alone."""

    def __init__(self, board: Board) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "twinserve_experiment_requests",
            "Requests that took part, by how they ended.",
            ["experiment", "arm", "outcome"],
            registry=self.registry,
        )
        self.latency = Histogram(
            "twinserve_experiment_latency_seconds",
            "From a request's arrival to its last token, of requests that finished.",
            ["experiment", "arm"],
            buckets=WHOLE_REQUEST,
            registry=self.registry,
        )
        self.shadows = Counter(
            "twinserve_experiment_shadows",
            "Answers beside those that clients saw, by how they ended.",
            ["experiment", "outcome"],
            registry=self.registry,
        )
        self.canary = Counter(
            "twinserve_experiment_canary_moves",
            "Changes of a canary's share by this process: step or rollback.",
            ["experiment", "move"],
            registry=self.registry,
        )
        self.registry.register(_Standings(board))


class _Standings(Collector):
    """What the board knows of the experiments' units."""

    def __init__(self, board: Board) -> None:
        self.board = board

    def collect(self) -> Iterator[Metric]:
        ratio = GaugeMetricFamily(
            "twinserve_experiment_srm",
            "Always-valid p-value of units by arm against their shares. Below 0.001 something is wrong.",
            labels=["experiment"],
        )
        units = GaugeMetricFamily(
            "twinserve_experiment_units",
            "Distinct units by arm, in this process and version of the experiment.",
            labels=["experiment", "arm"],
        )
        canary = GaugeMetricFamily(
            "twinserve_experiment_canary_share",
            "Share of the canary's arm, 0 to 1; 0 where it was rolled back.",
            labels=["experiment"],
        )
        for standing in self.board.all():
            if standing.experiment.canary is not None and standing.state != "stopped":
                canary.add_metric([standing.name], share_of(standing.experiment))
            exposure = self.board.exposures[standing.name]
            p_value = exposure.mismatch(standing.arms.sizes)
            if p_value is not None:
                ratio.add_metric([standing.name], p_value)
            counted = exposure.units
            for arm in standing.experiment.arms:
                units.add_metric([standing.name, arm.name], counted.get(arm.name, 0))
        yield ratio
        yield units
        yield canary
        passed = CounterMetricFamily(
            "twinserve_experiment_passed",
            "Requests that took no part in a running experiment, by reason.",
            labels=["experiment", "reason"],
        )
        for key, count in sorted(self.board.passed.items()):
            passed.add_metric(key, count)
        yield passed
