"""One workload, run by all contenders in turns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.progress import track

from benchmarks.engine.protocol import Contender, Result, Workload, refusal
from compress.loading import first_line


@dataclass
class Figures:
    """One contender on one workload: its results, or why it has none."""

    results: list[Result] = field(default_factory=list)
    failure: str | None = None

    def cell(self) -> str:
        """Median tokens a second, for people."""
        return "-" if self.failure else f"{self.median():.1f}"

    def median(self) -> float:
        return statistics.median(result.rate for result in self.results)

    def facts(self) -> dict[str, Any]:
        """For a file. Seconds to the first token and between tokens are over all rounds' requests."""
        if self.failure:
            return {"failure": self.failure}
        gaps = [gap for result in self.results for gap in result.inter_token]
        return {
            "tokens_per_second": self.median(),
            "all": [result.rate for result in self.results],
            "first_token": spread([wait for result in self.results for wait in result.first_token]),
            "inter_token": spread(gaps) if gaps else None,
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    ordered = sorted(values)
    return {"p50": statistics.median(ordered), "p95": ordered[int(0.95 * (len(ordered) - 1))]}


def rounds(contenders: Sequence[Contender], workload: Workload, count: int, name: str) -> dict[str, Figures]:
    """``count`` rounds in which each contender has one turn, after one that warms up and does not count."""
    figures = {contender.name: Figures(failure=refusal(contender, workload)) for contender in contenders}
    turns = [(number, contender) for number in range(count + 1) for contender in contenders]
    for number, contender in track(turns, description=name, transient=True):
        mine = figures[contender.name]
        if mine.failure:
            continue
        try:
            result = contender.run(workload)
        # As when loading: a failure is what is reported of it.
        except Exception as error:
            mine.failure = first_line(error)
            continue
        if number:
            mine.results.append(result)
    return figures
