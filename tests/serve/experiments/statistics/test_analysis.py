"""From records to decisions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.experiments.statistics import analyse
from tests.serve.experiments.statistics.drawn import NOW, START, experiment, records, said, served

REWARD = {"name": "reward", "guardrail": None}
BINARY = {"name": "thumbs", "kind": "binary"}
LATENCY = {"name": "latency", "direction": "lower", "guardrail": 0.2}


def rates(static: float, dynamic: float, units: int = 1500) -> dict[str, list[float]]:
    return {
        arm: (np.arange(units) < rate * units).astype(float).tolist()
        for arm, rate in (("static", static), ("dynamic", dynamic))
    }


def row(report, arm="dynamic", metric=0):
    return next(row for row in report.metrics[metric].arms if row.arm == arm)


def test_a_clear_gain_within_its_guardrail_says_switch():
    shown, told = records(rates(0.5, 0.7), "thumbs")
    seconds = np.random.default_rng(21).lognormal(0, 0.3, len(shown))
    for one, second in zip(shown, seconds, strict=True):
        one.metrics["latency"] = float(second * (1.1 if one.arm == "dynamic" else 1))
    report = analyse(experiment(BINARY, LATENCY), shown, told, now=NOW)
    found = row(report)
    assert found.effect == pytest.approx(0.2) and found.relative == pytest.approx(0.4)
    assert found.always_valid_low < found.low < 0.2 < found.high < found.always_valid_high
    assert found.always_valid_relative_low < 0.4 < found.always_valid_relative_high
    assert report.guardrails[0].status == "ok"
    assert report.verdicts[0].verdict == "switch"
    assert report.decision.startswith(
        "dynamic beats static on thumbs by +0.2 (95 % always-valid interval +0.1"
    )
    assert (
        report.decision.endswith("within its guardrail of 20 %: switch.") and "; latency " in report.decision
    )


def test_a_broken_guardrail_comes_before_a_gain():
    shown, told = records(rates(0.5, 0.7), "thumbs")
    for place, one in enumerate(shown):
        one.metrics["latency"] = (1 + place % 7 / 10) * (2 if one.arm == "dynamic" else 1)
    report = analyse(experiment(BINARY, LATENCY), shown, told, now=NOW)
    assert row(report).decision == "better" and row(report, metric=1).decision == "worse"
    assert report.verdicts[0].verdict == "stop" and "beyond its guardrail of 20 %" in report.decision


def test_a_guardrail_that_is_not_known_to_hold_is_said_to_be_so():
    shown, told = records(rates(0.5, 0.7), "thumbs")
    for place, one in enumerate(shown):
        one.metrics["latency"] = (1 + place % 7 / 10) * (1.2 if one.arm == "dynamic" else 1)
    report = analyse(experiment(BINARY, LATENCY), shown, told, now=NOW)
    assert report.verdicts[0].verdict == "wait" and "not yet certain to stay within" in report.decision


def test_a_loss_keeps_the_control():
    report = analyse(experiment(BINARY), *records(rates(0.7, 0.5), "thumbs"), now=NOW)
    assert report.verdicts[0].verdict == "keep" and report.decision.endswith("keep static.")


def test_no_difference_waits_and_says_how_long():
    report = analyse(experiment(BINARY), *records(rates(0.5, 0.52, 600), "thumbs"), now=NOW)
    verdict = report.verdicts[0]
    assert verdict.verdict == "wait" and verdict.needed > 5000
    assert f"about {verdict.needed:,} more units" in report.decision
    equal = analyse(experiment(BINARY), *records(rates(0.5, 0.5, 600), "thumbs"), now=NOW)
    assert equal.verdicts[0].needed is None and "no difference in sight" in equal.decision


def test_users_who_ask_often_do_not_fake_significance():
    """Two users an arm, a thousand responses each: four observations, not four thousand."""
    shown = [served(i, ("static", "dynamic")[i % 2], f"u{i % 4}") for i in range(4000)]
    told = [said(i, reward=float(i % 4 == 1) + i % 3 / 10) for i in range(4000)]
    found = row(analyse(experiment(), shown, told, now=NOW))
    assert found.units == 2 and found.p_value > 0.2 and found.always_valid_low is None


def test_below_a_hundred_units_an_arm_nothing_is_always_valid():
    report = analyse(experiment(BINARY), *records(rates(0.0, 1.0, 99), "thumbs"), now=NOW)
    assert row(report).always_valid_low is None and row(report).decision == "undecided"
    assert "99 and 99 units, and 100 of each arm are the least" in report.decision
    assert (
        analyse(experiment(BINARY), *records(rates(0.0, 1.0, 100), "thumbs"), now=NOW).verdicts[0].verdict
        == "switch"
    )


def test_arms_of_unequal_numbers_raise_the_alarm_and_nothing_else_is_said():
    report = analyse(
        experiment(BINARY), *records({**rates(0.5, 0.7), "static": [0.0] * 900}, "thumbs"), now=NOW
    )
    assert report.srm.alarm and report.verdicts[0].verdict == "distrust"
    assert report.decision.startswith("Do not trust these figures")


def test_only_versions_whose_shares_are_known_are_held_against_them():
    shown, told = records(rates(0.5, 0.5, 400))
    early = [served(10_000 + i, "static", version=0, moment=START - i) for i in range(500)]
    assert not analyse(experiment(), [*early, *shown], told, now=NOW).srm.alarm
    halves = {"static": 0.5, "dynamic": 0.5}
    assert analyse(experiment(), [*early, *shown], told, now=NOW, shares={0: halves, 1: halves}).srm.alarm
    alone = {0: {"static": 1.0, "dynamic": 0.0}, 1: halves}
    assert not analyse(experiment(), [*early, *shown], told, now=NOW, shares=alone).srm.alarm


def test_several_arms_share_the_error_on_the_metric_that_decides():
    generator = np.random.default_rng(22)
    values = {arm: generator.normal(0, 1, 300).tolist() for arm in ("a", "b", "c")}
    arms = dict.fromkeys("abc", 1 / 3)
    shown, told = records(values)
    several = analyse(experiment(REWARD, {"name": "latency"}, arms=arms), shown, told, now=NOW)
    assert [metric.level for metric in several.metrics] == [0.975, 0.95]
    two = analyse(experiment(arms={"a": 0.5, "b": 0.5}), shown, told, now=NOW)
    assert row(several, "b").high - row(several, "b").low > row(two, "b").high - row(two, "b").low
    assert row(several, "b").effect == row(two, "b").effect
    assert [verdict.arm for verdict in several.verdicts] == ["b", "c"]
    assert any("Bonferroni" in note for note in several.notes)


def test_the_course_over_time_ends_with_the_interval_of_the_end():
    report = analyse(experiment(BINARY), *records(rates(0.5, 0.7), "thumbs"), now=NOW)
    points = report.over_time["thumbs"]
    assert 50 < len(points) <= 60 and [p.moment for p in points] == sorted(p.moment for p in points)
    last, found = points[-1], row(report)
    assert (last.effect, last.low, last.high) == pytest.approx(
        (found.effect, found.always_valid_low, found.always_valid_high)
    )
    assert points[0].high - points[0].low > 2 * (last.high - last.low)


def test_what_was_recorded_later_is_not_known_yet():
    shown, told = records(rates(0.5, 0.7, 300))
    report = analyse(experiment(), shown, told, now=START + 99.9)
    assert sum(arm.responses for arm in report.arms) == 100
    assert report.latest == START + 99


def test_tasks_are_compared_within_themselves():
    shown = [served(i, ("static", "dynamic")[i % 2], task=("a", "base")[i // 2 % 2]) for i in range(400)]
    shown += [served(i, "static", task=None) for i in range(400, 500)]
    told = [said(i, reward=float(i % 2 and i // 2 % 2 == 0) + i % 7 / 10) for i in range(500)]
    rows = {(one.task, one.arm): one for one in analyse(experiment(), shown, told, now=NOW).tasks}
    assert rows["a", "static"].effect is None and rows["a", "dynamic"].units == 100
    assert rows["a", "dynamic"].low > 0.5 and rows["base", "dynamic"].low < 0 < rows["base", "dynamic"].high
    assert rows["a", "static"].units == rows["base", "static"].units == 100 and len(rows) == 4


def test_the_past_of_the_same_units_narrows_the_intervals():
    past = np.random.default_rng(23).normal(0, 3, 600)
    shown = [served(i, ("static", "dynamic")[i % 2]) for i in range(600)]
    told = [said(i, reward=float(past[i] + i % 2 + i % 11 / 10)) for i in range(600)]
    earlier = [
        served(9000 + i, "static", f"u{i}", experiment="aa", moment=START - 900 + i) for i in range(600)
    ]
    words = [said(9000 + i, reward=float(past[i]), moment=START - 10) for i in range(600)]
    plain = analyse(experiment(), shown, told, now=NOW)
    known = analyse(experiment(), shown, told, now=NOW, before=(earlier, words))
    assert row(plain).decision == "better" and row(known).variance_left < 0.05
    assert row(known).always_valid_low > row(plain).always_valid_low
    assert row(known).mean == row(plain).mean
    assert any("CUPED" in note for note in known.notes) and row(plain).variance_left is None


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"static": [1.0]},
        {"static": [1.0], "dynamic": [2.0]},
        {"static": [3.0] * 200, "dynamic": [3.0] * 200},
        {"static": [0.0] * 200},
    ],
    ids=["no data", "one unit", "one unit each", "no variance", "one arm"],
)
def test_too_little_is_no_decision(values):
    report = analyse(experiment(), *records(values), now=NOW)
    assert report.verdicts[0].verdict in ("wait", "distrust") and report.verdicts[0].needed is None
    assert row(report).effect is None and report.over_time["reward"] == [] and report.decision
    assert report.model_validate_json(report.model_dump_json()) == report


def test_arms_that_fail_always_or_never_are_still_told_apart_or_not():
    failing = {"name": "error", "kind": "binary", "direction": "lower", "guardrail": 0.1}

    def of(static: float, dynamic: float):
        shown = [
            served(i, ("static", "dynamic")[i % 2], metrics={"error": (static, dynamic)[i % 2]})
            for i in range(600)
        ]
        return analyse(experiment(failing), shown, [], now=NOW)

    assert of(0, 1).verdicts[0].verdict == "stop" and of(1, 0).verdicts[0].verdict == "switch"
    for same in (of(1, 1), of(0, 0)):
        assert (
            same.verdicts[0].verdict == "wait"
            and row(same).always_valid_low < 0 < row(same).always_valid_high
        )


def test_the_report_has_what_the_page_reads():
    report = analyse(
        experiment(BINARY, LATENCY), *records(rates(0.5, 0.7, 200), "thumbs"), now=NOW
    ).model_dump()
    assert {"name", "version", "state", "arms", "control", "metrics", "over_time", "guardrails"} <= set(
        report
    )
    assert {"tasks", "srm", "decision"} <= set(report)
    assert {"name", "model", "share", "units", "responses"} <= set(report["arms"][0])
    assert {"name", "direction", "guardrail", "unit", "arms"} <= set(report["metrics"][0])
    wanted = {"arm", "mean", "effect", "low", "high", "relative", "always_valid_low", "always_valid_high"}
    assert wanted | {"decision"} <= set(report["metrics"][0]["arms"][0])
    assert {"moment", "arm", "effect", "low", "high"} == set(report["over_time"]["thumbs"][0])
    assert {"metric", "arm", "status", "limit", "value"} == set(report["guardrails"][0])
    assert {"task", "arm", "metric", "units", "mean", "effect", "low", "high"} == set(report["tasks"][0])
    assert {"p_value", "alarm"} == set(report["srm"])


@settings(max_examples=25, deadline=None)
@given(gain=st.floats(-3, 3), scale=st.floats(0.1, 10), seed=st.integers(0, 50), units=st.integers(100, 160))
def test_swapping_arms_and_scaling_a_metric_change_what_they_should(gain, scale, seed, units):
    generator = np.random.default_rng(seed)
    base, other = generator.normal(0, 1, units), generator.normal(gain, 1, units)
    one = row(analyse(experiment(), *records({"static": base, "dynamic": other}), now=NOW))
    back = row(analyse(experiment(), *records({"static": other, "dynamic": base}), now=NOW))
    wide = row(analyse(experiment(), *records({"static": base * scale, "dynamic": other * scale}), now=NOW))
    assert (back.effect, back.always_valid_low) == pytest.approx((-one.effect, -one.always_valid_high))
    assert {one.decision, back.decision} in ({"undecided"}, {"better", "worse"})
    assert wide.always_valid_high == pytest.approx(scale * one.always_valid_high, rel=1e-6, abs=1e-9)
    assert wide.always_valid_p == pytest.approx(one.always_valid_p, rel=1e-6)
