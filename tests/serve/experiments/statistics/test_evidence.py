"""From records to what a canary is judged by."""

from __future__ import annotations

import numpy as np
import pytest

from compress.errors import InputError
from serve.experiments.canary import Evidence
from serve.experiments.statistics.evidence import evidence, first_failures
from serve.experiments.statistics.failures import Failures
from tests.serve.experiments.statistics.drawn import experiment, served

LATENCY = {"name": "latency", "direction": "lower", "guardrail": 0.25}
TRIAL = experiment(LATENCY, arms={"old": 0.8, "new": 0.2}, canary={"arm": "new"})
VERSIONS = {2: {"old": 0.95, "new": 0.05}, 3: {"old": 0.8, "new": 0.2}}


def visits(count: int, version: int, slower: float = 1.0, failed: str = "", start: int = 0, seed: int = 0):
    """So many users who come once. slower: how often as long ``new`` takes. failed: the arm that fails."""
    generator = np.random.default_rng([seed, start])
    for number in range(start, start + count):
        arm = "new" if generator.random() < VERSIONS[version]["new"] else "old"
        latency = generator.lognormal(0, 0.3) * (slower if arm == "new" else 1)
        metrics = {"error": 1.0} if arm == failed else {"error": 0.0, "latency": latency}
        yield served(number, arm, version=version, metrics=metrics)


def test_an_arm_like_the_control_breaks_nothing():
    records = [*visits(2000, 2), *visits(1500, 3, start=2000)]
    found = evidence(TRIAL, VERSIONS, records, [])
    units = len([one for one in records if one.version == 3 and one.arm == "new"])
    assert found == Evidence(units) and 250 < units < 350


def test_units_are_those_of_the_current_version_each_once_and_shown_something():
    records = [served(i, "new", f"u{i % 3}", version=3) for i in range(9)]
    records += [served(9, "new", "u9", version=2), served(10, "new", "u10", version=3, shadow=True)]
    records += [served(11, "old", "u11", version=3), served(12, "new", "u12", version=1)]
    assert evidence(TRIAL, VERSIONS, records, []).units == 3


def test_a_broken_guardrail_is_told_as_reports_tell_it():
    found = evidence(TRIAL, VERSIONS, visits(2500, 3, slower=1.6), [])
    (told,) = found.broken
    assert told.startswith("latency ") and told.endswith(" worse, beyond its guardrail of 25 %")


def test_below_a_hundred_units_only_failures_speak():
    assert evidence(TRIAL, VERSIONS, visits(300, 3, slower=5), []).broken == ()
    (told,) = evidence(TRIAL, VERSIONS, visits(20, 3, failed="new"), []).broken
    arm = len([one for one in visits(20, 3) if one.arm == "new"])
    assert told == (
        f"of {arm} users whose requests failed on the server's side {arm} had it, and by its share 20 % would"
    )
    assert 3 <= arm <= 8
    assert evidence(TRIAL, VERSIONS, visits(20, 3, failed="old"), []).broken == ()


def test_an_outage_of_all_arms_is_not_the_canary_s():
    records = [
        served(i, "new" if i % 5 == 0 else "old", version=3, metrics={"error": 1.0}) for i in range(500)
    ]
    assert evidence(TRIAL, VERSIONS, records, []).broken == ()


def test_a_tolerance_of_failures_is_the_guardrail_of_error():
    # Twice as many failures as by the share.
    records = [
        served(i, "new" if i % 3 == 0 else "old", version=3, metrics={"error": 1.0}) for i in range(200)
    ]
    assert evidence(TRIAL, VERSIONS, records, []).broken
    error = {"name": "error", "direction": "lower", "kind": "binary", "guardrail": 1.5}
    bears = experiment(error, arms={"old": 0.8, "new": 0.2}, canary={"arm": "new"})
    assert evidence(bears, VERSIONS, records, []).broken == ()


def test_what_an_earlier_attempt_did_is_not_held_against_this_one():
    records = [*visits(400, 2, failed="new"), *visits(400, 3, start=400)]
    assert evidence(TRIAL, VERSIONS, records, []).broken
    assert evidence(TRIAL, {3: VERSIONS[3]}, records, []).broken == ()


def test_a_mismatch_of_shares_is_seen():
    records = [served(i, "new" if i % 2 else "old", version=3, metrics={"error": 0.0}) for i in range(400)]
    assert evidence(TRIAL, VERSIONS, records, []).mismatch


def test_of_each_unit_the_first_failure_counts_with_the_arm_that_it_had():
    fail = {"error": 1.0}
    three = {2: {"old": 0.6, "new": 0.2, "b": 0.2}, 3: {"old": 0.4, "new": 0.4, "b": 0.2}}
    records = [
        served(9, "new", "moved", version=3, metrics=fail),
        served(1, "old", "moved", version=2, metrics=fail),
        served(2, "new", "often", version=2, metrics=fail),
        served(3, "new", "often", version=3, metrics=fail),
        served(4, "b", "from b", version=2, metrics=fail),
        served(5, "new", "from b", version=3, metrics=fail),
        served(6, "new", "late", version=2, metrics={"error": 0.0}),
        served(7, "new", "late", version=3, metrics=fail),
    ]
    found = first_failures(records, three, "old", "new")
    assert found == [Failures(0.25, 1, 1), Failures(0.5, 1, 0)]
    alone = {4: {"old": 0.0, "new": 1.0}}
    assert first_failures([served(1, "new", version=4, metrics=fail)], alone, "old", "new") == []


def test_values_that_cannot_be_compared_are_refused():
    with pytest.raises(InputError, match="its latency is nan"):
        evidence(TRIAL, VERSIONS, [served(1, "new", version=3, metrics={"latency": float("nan")})], [])
