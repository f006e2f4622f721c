"""The simulations compute what reports compute, and a short one keeps its promise."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.experiments.failing import alarm, exact_test, hopeless, once, outages
from benchmarks.experiments.peeking import alarmed, contrast_at, contrasts, guarded, watched
from benchmarks.experiments.traffic import lognormal, rate, regulars, visitors


@pytest.mark.parametrize(("draw", "binary"), [(rate(0.3), True), (lognormal(1), False)])
def test_running_sums_are_the_contrasts_of_reports(draw, binary):
    traffic = visitors(np.random.default_rng(1), 400, 0.3, draw, draw)
    looks = list(contrasts(traffic, 50, binary))
    assert [count for count, _ in looks] == [*range(50, 401, 50)]
    for count, found in looks:
        exact = contrast_at(traffic, count, binary)
        assert (found.effect, found.error, found.information, found.freedom) == pytest.approx(
            (exact.effect, exact.error, exact.information, exact.freedom)
        )
        assert found.units == exact.units


def test_those_who_return_come_in_order_and_often():
    traffic = regulars(np.random.default_rng(2), 500, 0.5)
    assert 3000 < len(traffic.unit) < 15_000 and np.bincount(traffic.unit).max() > 50
    first = np.unique(traffic.unit, return_index=True)[1]
    assert np.corrcoef(first, np.arange(500))[0, 1] > 0.95


@pytest.mark.parametrize(("draw", "binary"), [(rate(0.5), True), (lognormal(1), False)])
def test_arms_that_are_alike_are_seldom_told_apart_however_often_one_looks(draw, binary):
    seen = [
        watched(visitors(np.random.default_rng([7, i]), 2000, 0.5, draw, draw), 50, binary)
        for i in range(200)
    ]
    assert np.mean([one.first is not None for one in seen]) <= 0.05
    assert np.mean([one.fixed for one in seen]) > 0.15


def test_a_difference_is_found():
    pairs = [visitors(np.random.default_rng([8, i]), 2000, 0.5, rate(0.5), rate(0.65)) for i in range(30)]
    assert np.mean([watched(one, 50, True).first is not None for one in pairs]) > 0.9


def test_guardrails_and_alarms_speak_when_they_should():
    slow = visitors(np.random.default_rng(3), 2000, 0.5, lognormal(1, 0.3), lognormal(1.5, 0.3))
    assert "broken" in guarded(slow, 100, 0.1) and "ok" not in guarded(slow, 100, 0.1)
    fair = (np.random.default_rng(4).random(2000) < 0.5).astype(int)
    assert alarmed(fair, (0.5, 0.5), 100) == (False, False)
    assert alarmed(fair, (0.8, 0.2), 100) == (True, True)


def test_units_have_one_arm_at_a_time_and_those_that_are_hopeless_always_fail():
    asked = hopeless(0.01, 0.05, 0.2, 0.5)(np.random.default_rng(5), 8000)
    assert len(asked.unit) == 8000 and len(asked.place) == 800
    counts = np.array([asked.has_arm[asked.share == share].mean() for share in (0.01, 0.05, 0.2, 0.5)])
    assert np.abs(counts - (0.01, 0.05, 0.2, 0.5)).max() < 0.08
    failed = {unit for unit in asked.unit if asked.failed[asked.unit == unit].all()}
    assert failed == set(asked.unit[asked.failed]) and 4 <= len(failed) <= 40


def test_the_alarm_over_failures_is_raised_when_it_should_be():
    bad = [alarm(once(0.2, 0.01, 1.0)(np.random.default_rng([6, i]), 400)) for i in range(20)]
    assert all(end is not None and end < 100 for end in bad)
    alike = [outages(0.2)(np.random.default_rng([7, i]), 6000) for i in range(60)]
    assert np.mean([alarm(asked) is not None for asked in alike]) <= 0.05 + 0.05
    assert np.mean([exact_test(asked) for asked in alike]) > 0.15, "a test for one look is another matter"


def test_whoever_fails_a_hundred_times_counts_once():
    draws = [hopeless(0.05)(np.random.default_rng([8, i]), 6000) for i in range(60)]
    once_each, each = ([alarm(asked, by_request=by) is not None for asked in draws] for by in (False, True))
    assert np.mean(each) > 0.15 > 0.1 >= np.mean(once_each)
