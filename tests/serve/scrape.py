"""What an engine's or an endpoint's metrics say, parsed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}


def families(text: str) -> list[Any]:
    """Every metric of a scrape, without the times of creation that the library adds."""
    return [one for one in text_string_to_metric_families(text) if not one.name.endswith("_created")]


def series(found: Iterable[Any]) -> set[str]:
    """Names that PromQL can ask for."""
    return {one.name + suffix for one in found for suffix in SUFFIXES.get(one.type, ("",))}


def scrape(engine: Any) -> dict[tuple[str, ...], float]:
    """Name and label values -> value."""
    text = generate_latest(engine.metrics).decode()
    samples = (sample for one in families(text) for sample in one.samples)
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


def total(samples: dict[tuple[str, ...], float], name: str) -> float:
    """A metric's sum over its labels."""
    return sum(value for key, value in samples.items() if key[0] == name)
