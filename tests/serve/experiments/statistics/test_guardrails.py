"""Guardrails: broken, kept, or not known yet."""

from __future__ import annotations

import math

import numpy as np
import pytest

from serve.experiments.statistics.guardrails import status, worsening
from serve.experiments.statistics.sequences import one_sided_multiple
from tests.serve.experiments.statistics.drawn import compared

GENERATOR = np.random.default_rng(8)
BASE, OTHER = GENERATOR.normal(10, 1, 400), GENERATOR.normal(10, 1, 400)


@pytest.mark.parametrize(
    ("arm", "direction", "limit", "expected"),
    [
        (OTHER * 1.3, "lower", 0.1, "broken"),
        (OTHER * 1.03, "lower", 0.1, "ok"),
        (OTHER * 1.1, "lower", 0.1, "undecided"),
        (OTHER * 0.7, "lower", 0.1, "ok"),
        (OTHER * 0.7, "higher", 0.1, "broken"),
        (OTHER * 0.97, "higher", 0.1, "ok"),
        (OTHER * 1.3, "higher", 0.0, "ok"),
    ],
)
def test_worse_by_more_or_by_less_than_the_tolerance(arm, direction, limit, expected):
    assert status(compared(BASE, arm), direction, limit, 0.05) == expected


def test_a_negative_metric_worsens_away_from_its_mean():
    assert status(compared(-BASE, -OTHER * 1.3), "higher", 0.1, 0.05) == "broken"
    assert worsening(compared(-BASE, -OTHER * 1.3), "higher") == pytest.approx(0.3, abs=0.02)


def test_the_bound_is_that_of_arm_less_tolerated_control():
    """Moving the tolerance to where the bound touches zero changes the word there, and not before."""
    found = compared(BASE, OTHER * 1.3)
    reach = one_sided_multiple(found.information, 0.05)

    def bound(limit: float) -> float:
        error = math.sqrt(found.arm.variance + (1 + limit) ** 2 * found.control.variance)
        return found.arm.mean - (1 + limit) * found.control.mean - reach * error

    limits = np.linspace(0.1, 0.5, 401)
    words = [status(found, "lower", limit, 0.05) for limit in limits]
    assert [word == "broken" for word in words] == [bound(limit) > 0 for limit in limits]
    assert {*words} == {"broken", "undecided", "ok"}


def test_no_worsening_is_known_of_a_control_of_zero():
    assert worsening(compared([-1, 0, 1], [1, 2, 3]), "lower") is None
