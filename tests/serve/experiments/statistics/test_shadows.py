"""Unseen answers beside those that clients saw."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from serve.experiments.statistics import analyse
from serve.experiments.statistics.shadows import shadowed
from tests.serve.experiments.statistics.drawn import NOW, experiment, served

TRIAL = experiment({"name": "latency", "direction": "lower"}, shadow={"arm": "dynamic"})


def pair(number, agrees, task="sums", latency=1.0, own=0.5):
    front = served(number, "static", task=None, metrics={"latency": latency, "error": 0.0}, text="x")
    said = {"agreement": float(agrees), "latency": own, "error": 0.0}
    behind = served(
        5000 + number, "dynamic", task=task, metrics=said, shadow=True, beside=front.response, text="x"
    )
    return [front, behind]


def test_agreement_is_counted_in_all_and_by_task():
    rng = np.random.default_rng(0)
    agrees, tasks = rng.random(300) < 0.7, rng.choice(["sums", "lists"], 300)
    records = [r for i in range(300) for r in pair(i, agrees[i], tasks[i], 1 + i / 300, 0.25)]
    rng.shuffle(records)
    found = shadowed(TRIAL, records)
    everything, *rows = found.rows
    assert (found.arm, found.failed, everything.task) == ("dynamic", 0, None)
    for row, mask in ((everything, agrees >= 0), *((row, tasks == row.task) for row in rows)):
        assert (row.pairs, row.agreement) == (mask.sum(), pytest.approx(agrees[mask].mean()))
        expected = proportion_confint(agrees[mask].sum(), mask.sum(), method="wilson")
        assert (row.low, row.high) == pytest.approx(expected)
        assert row.shadow_latency == 0.25
    assert [row.task for row in rows] == ["lists", "sums"]
    assert everything.latency == pytest.approx(1 + 299 / 600)


def test_halves_and_failures_are_no_pairs():
    front, behind = pair(0, True)
    failed = served(7, "dynamic", shadow=True, beside=front.response, metrics={"error": 1.0})
    alone = served(8, "dynamic", shadow=True, beside="gone", metrics={"agreement": 1.0})
    other = served(9, "dynamic", shadow=True, beside=front.response, experiment="other", metrics={})
    found = shadowed(TRIAL, [failed, behind, alone, other, front])
    assert (found.failed, [row.pairs for row in found.rows]) == (1, [1, 1])
    assert shadowed(TRIAL, [front]).rows[0].agreement is None


def test_a_report_leaves_shadows_out_of_everything_else():
    records = [r for i in range(10) for r in pair(i, i % 2)]
    found = analyse(TRIAL, records, [], now=NOW)
    assert [arm.units for arm in found.arms] == [10, 0] and found.excluded.shadows == 10
    assert found.shadow.rows[0].agreement == 0.5
    assert analyse(experiment(), records, [], now=NOW).shadow is None
