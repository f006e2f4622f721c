"""CUPED against tea-tasting, and where it stays out of the way."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
import tea_tasting

from serve.experiments.spec import Metric
from serve.experiments.statistics.contrasts import fixed_horizon
from serve.experiments.statistics.covariate import adjust, earlier_means
from tests.serve.experiments.statistics.drawn import START, compared, said, served

GENERATOR = np.random.default_rng(3)
UNITS = 600
ARM = np.repeat([0, 1], UNITS // 2)
BEFORE = GENERATOR.normal(5, 2, UNITS)
VALUE = BEFORE + 0.2 * ARM + GENERATOR.normal(0, 1, UNITS)
NAMES = [f"u{i}" for i in range(UNITS)]


def test_it_agrees_with_tea_tasting():
    made = adjust(VALUE, ARM, NAMES, dict(zip(NAMES, BEFORE, strict=True)))
    assert made.left == pytest.approx(0.2, abs=0.05)
    adjusted = VALUE - made.shift
    found = compared(adjusted[ARM == 0], adjusted[ARM == 1])
    data = pandas.DataFrame({"variant": ARM, "value": VALUE, "before": BEFORE})
    reference = tea_tasting.Experiment(value=tea_tasting.Mean("value", covariate="before")).analyze(data)[
        "value"
    ]
    fixed = fixed_horizon(found, 0.05)
    # tea-tasting takes θ from the pooled units, here it is within arms: the same up to chance.
    assert (found.effect, fixed.low, fixed.high) == pytest.approx(
        (reference.effect_size, reference.effect_size_ci_lower, reference.effect_size_ci_upper), abs=0.005
    )
    assert found.error < 0.6 * compared(VALUE[ARM == 0], VALUE[ARM == 1]).error


def test_units_without_a_past_are_left_as_they_are():
    known = dict(zip(NAMES[:400], BEFORE, strict=False))
    made = adjust(VALUE, ARM, NAMES, known)
    assert not made.shift[400:].any() and made.shift[:400].any() and made.left < 1


@pytest.mark.parametrize(
    "earlier",
    [{}, dict.fromkeys(NAMES, 4.2), dict(zip(NAMES[:299], BEFORE, strict=False))],
    ids=["none", "constant", "of too few"],
)
def test_a_past_that_says_nothing_is_not_used(earlier):
    assert adjust(VALUE, ARM, NAMES, earlier) is None


def test_the_past_is_what_came_before_and_what_was_said_of_it_then():
    metrics = [Metric(name="reward"), Metric(name="latency", direction="lower")]
    shown = [
        served(1, "dynamic", "u", metrics={"latency": 1.0}, experiment="other"),
        served(2, "static", "u", metrics={"latency": 3.0}, experiment="other"),
        served(3, "static", "u", metrics={"latency": 99.0}, experiment="other", shadow=True),
        served(50, "static", "u", metrics={"latency": 99.0}),
    ]
    told = [said(1, reward=4.0), said(2, reward=9.0, moment=START + 60), said(50, reward=9.0)]
    assert earlier_means(metrics, shown, told, START + 40) == {"reward": {"u": 4.0}, "latency": {"u": 2.0}}
