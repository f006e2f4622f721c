"""Simulated traffic: who comes, to which arm, and what is measured of them, in order of time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Traffic:
    """Responses in the order in which they come: unit and value, [n]; arm: of each unit [u], 0 is control"""

    unit: np.ndarray
    value: np.ndarray
    arm: np.ndarray


Draw = Callable[[np.random.Generator, int], np.ndarray]
"""n values of one arm's units."""


def visitors(
    generator: np.random.Generator, units: int, share: float, control: Draw, treated: Draw
) -> Traffic:
    """Units that come once each. share: of the arm that is no control."""
    arm = (generator.random(units) < share).astype(int)
    value = np.where(arm == 1, treated(generator, units), control(generator, units))
    return Traffic(np.arange(units), value, arm)


def regulars(generator: np.random.Generator, units: int, share: float) -> Traffic:
    """Units that come again and again, some of them very often (Lomax-distributed, 10 times on average), and
    differ: each is satisfied with a probability of its own, from Beta(1, 1). The arms are alike."""
    arm = (generator.random(units) < share).astype(int)
    often = 1 + np.minimum(generator.pareto(1.5, units) * 4.5, 500).astype(int)
    unit = np.repeat(np.arange(units), often)
    # A unit's responses lie in a window behind its arrival, of a tenth of the whole time.
    moment = np.repeat(np.arange(units) / units, often) + generator.random(len(unit)) / 10
    satisfied = generator.random(len(unit)) < generator.random(units)[unit]
    order = np.argsort(moment)
    return Traffic(unit[order], satisfied[order].astype(float), arm)


def rate(p: float) -> Draw:
    """0 or 1."""
    return lambda generator, n: (generator.random(n) < p).astype(float)


def lognormal(scale: float, sigma: float = 1.0) -> Draw:
    """As latencies are: skewed, positive. The mean is scale · exp(sigma² / 2)."""
    return lambda generator, n: scale * generator.lognormal(0, sigma, n)
