"""Shares of prompts, with the interval that their number allows."""

from __future__ import annotations

from typing import Any

import numpy as np

RESAMPLES = 2000


def share(hits: Any) -> dict[str, float]:
    """Mean of booleans, and its 95 % percentile bootstrap interval; with no miss (or no hit) at all, where
    resampling shows no spread, the far end is 3 / n away (the rule of three)."""
    values = np.asarray(hits, dtype=float)
    generator = np.random.default_rng(0)
    means = values[generator.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    mean = float(values.mean())
    if mean in (0.0, 1.0):
        far = min(1.0, 3 / len(values))
        low, high = (1 - far, 1.0) if mean else (0.0, far)
    return {"share": mean, "low": float(low), "high": float(high), "prompts": len(values)}


def shown(found: dict[str, float]) -> str:
    return f"{100 * found['share']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
