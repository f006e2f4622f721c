"""Experiments and the records that their traffic would leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serve.experiments.records import Feedback, Served
from serve.experiments.spec import Experiment
from serve.experiments.statistics.contrasts import Contrast, contrast, within

NOW = 2e9
START = 1.7e9


def experiment(
    *metrics: Mapping[str, Any], arms: Mapping[str, float] | None = None, **more: Any
) -> Experiment:
    """Arms by name and share, the first is the control; by default static and dynamic in halves."""
    shares = arms or {"static": 0.5, "dynamic": 0.5}
    return Experiment.model_validate(
        {
            "name": "trial",
            "arms": [{"name": name, "share": share} for name, share in shares.items()],
            "metrics": list(metrics or ({"name": "reward"},)),
            **more,
        }
    )


def served(
    number: int, arm: str, unit: str | None = None, *, moment: float | None = None, **more: Any
) -> Served:
    """Response ``r<number>``, a second after the one before it."""
    given = {"version": 1, "task": "sums", "metrics": {}, "experiment": "trial"} | more
    at = START + number if moment is None else moment
    return Served(response=f"r{number}", arm=arm, unit=unit or f"u{number}", moment=at, **given)


def said(number: int, *, key: str | None = None, moment: float | None = None, **metrics: float) -> Feedback:
    """Feedback on response ``r<number>``, half a second after it."""
    at = START + number + 0.5 if moment is None else moment
    return Feedback(f"r{number}", key or f"r{number}", at, metrics)


def records(
    values: Mapping[str, Sequence[float]], metric: str = "reward"
) -> tuple[list[Served], list[Feedback]]:
    """One response of one unit for every value of every arm, arms in turn."""
    rows = [(arm, value) for arm, own in values.items() for value in own]
    order = np.random.default_rng(5).permutation(len(rows))
    shown = [served(place, rows[row][0]) for place, row in enumerate(order)]
    return shown, [said(place, **{metric: rows[row][1]}) for place, row in enumerate(order)]


def compared(control: Sequence[float], arm: Sequence[float], **more: Any) -> Contrast:
    """The contrast of two samples of units."""
    values = np.array([*control, *arm], float)
    of = np.repeat([0, 1], [len(control), len(arm)])
    version = more.pop("version", np.ones(len(values), int))
    found = contrast(values, of, version, (0, 1), within(values, of), **more)
    assert found is not None
    return found
