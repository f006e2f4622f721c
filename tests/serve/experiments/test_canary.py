"""What a canary does next, from its experiment, the time and the evidence alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.errors import InputError
from serve.experiments.canary import (
    Evidence,
    Hold,
    Move,
    decide,
    line,
    next_step,
    opening,
    plan,
    share_of,
    watched,
    with_share,
)
from tests.serve.experiments.made import ARMS, METRICS, Clock, arms, experiment

STEPS = (0.01, 0.05, 0.2, 0.5)
ENOUGH = Evidence(units=100)


def canary(share: float = 0.05, **keys):
    """Static ``old`` is the control, ``new`` the canary at a share."""
    two = [{**ARMS[0], "share": 1 - share}, {**ARMS[1], "share": share}]
    return experiment(**{"arms": two, "canary": {"arm": "new", "units": 100}, **keys})


def shares(made) -> dict[str, float]:
    return {arm.name: arm.share for arm in made.arms}


@pytest.mark.parametrize(("declared", "others"), [(0.0, 1.0), (0.01, 0.99)])
def test_it_begins_at_its_first_step_and_the_others_share_the_rest_as_they_are_declared(declared, others):
    three = arms(a=0.75 * others, new=declared, b=0.25 * others)
    begins = opening(experiment(arms=three, canary={"arm": "new"}))
    assert shares(begins) == pytest.approx({"a": 0.7425, "new": 0.01, "b": 0.2475}, abs=1e-12)
    assert opening(experiment()) == experiment()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (arms(a=0.5, new=0.5), "'new': it is declared with the share 0.5 and begins, as a canary, with 0.01"),
        (arms(a=0, new=0, b=1), "'a': the control of a canary needs a share"),
    ],
)
def test_shares_that_contradict_the_steps_are_refused(given, sentence):
    with pytest.raises(InputError, match=sentence):
        opening(experiment(arms=given, canary={"arm": "new"}))


def test_it_goes_on_after_its_time_with_enough_units_and_says_why():
    found = decide(canary(), 720, Evidence(units=140))
    assert found == Move(
        0.2, "canary: new from 5 % to 20 % (3 of 4): no guardrail broken after 12 minutes and 140 users"
    )


@pytest.mark.parametrize(
    ("share", "elapsed", "seen", "why"),
    [
        (0.05, 599, ENOUGH, "9.98 minutes of 10 minutes have passed"),
        (0.05, -3600, ENOUGH, "have passed"),
        (0.05, 600, Evidence(units=99), "99 of 100 users have come"),
        (0.5, 1e9, Evidence(units=10**6), "it has its last step"),
        (0.7, 1e9, Evidence(units=10**6), "it has its last step"),
    ],
)
def test_else_it_waits(share, elapsed, seen, why):
    found = decide(canary(share), elapsed, seen)
    assert isinstance(found, Hold) and why in found.why and not found.wrong


def test_a_mismatch_of_shares_holds_it_and_is_wrong():
    found = decide(canary(), 600, Evidence(units=100, mismatch=True))
    assert isinstance(found, Hold) and found.wrong


@pytest.mark.parametrize("share", [0.0001, 0.05, 0.5, 0.7])
def test_what_is_broken_takes_it_back_at_any_step_at_once(share):
    seen = Evidence(0, ("latency 41 % worse", "and more"), mismatch=True)
    found = decide(canary(share), 0, seen)
    assert isinstance(found, Move) and found.share == 0
    assert found.reason.startswith("canary: new rolled back from ")
    assert found.reason.endswith(" %: latency 41 % worse; and more")


def test_a_share_given_by_hand_is_where_it_goes_on_from():
    assert [next_step(canary(share)) for share in (0.0, 0.005, 0.01, 0.03, 0.2, 0.5, 0.9)] == [
        0.01, 0.01, 0.05, 0.05, 0.5, None, None,
    ]  # fmt: skip


def test_who_is_watched():
    assert watched(canary(), "running")
    assert not watched(canary(0.0), "running") and not watched(experiment(), "running")
    assert not watched(canary(), "stopped") and not watched(canary(), "scheduled")


def test_where_all_was_given_to_it_by_hand_the_control_gets_the_rest_back():
    made = experiment(arms=arms(a=0, new=1, b=0), canary={"arm": "new"})
    assert shares(with_share(made, 0)) == {"a": 1, "new": 0, "b": 0}


@given(
    steps=st.lists(st.integers(1, 9999), min_size=1, max_size=8, unique=True).map(sorted),
    others=st.lists(st.floats(0.01, 1), min_size=1, max_size=4),
)
def test_a_ramp_takes_every_step_once_and_ends_with_the_last(steps, others):
    total = math.fsum(others)
    declared = [{"name": f"a{i}", "model": "static", "share": one / total} for i, one in enumerate(others)]
    ramp = {"arm": "new", "steps": [step / 10_000 for step in steps]}
    now, seen = opening(experiment(arms=[*declared, {"name": "new", "share": 0}], canary=ramp)), []
    while True:
        seen.append(share_of(now))
        found = decide(now, 600, ENOUGH)
        if isinstance(found, Hold):
            break
        now = with_share(now, found.share)
    assert seen == list(now.canary.steps)
    rest = 1 - seen[-1]
    assert [arm.share for arm in now.arms[:-1]] == pytest.approx([one / total * rest for one in others])
    back = with_share(now, 0)
    assert [arm.share for arm in back.arms[:-1]] == pytest.approx([one / total for one in others])


def test_where_it_is_in_words():
    now = Clock().now
    assert line(canary(), "running", now, "x") == (
        "canary: new at 5 % since 2023-11-14 22:13 UTC, next 20 % not before 2023-11-14 22:23 UTC and"
        " 100 users"
    )
    assert line(canary(0.5), "running", now, "x").endswith(
        "at 50 % since 2023-11-14 22:13 UTC, no step is left"
    )
    reason = decide(canary(), 0, Evidence(0, ("latency 41 % worse",))).reason
    assert line(canary(0.0), "running", now, reason) == (
        "canary: new at 0 % since 2023-11-14 22:13 UTC, rolled back from 5 %: latency 41 % worse"
    )
    assert line(canary(0.0), "running", now, "secret").endswith("UTC; it goes on once it is given a share")
    assert line(canary(0.01), "scheduled", now, "x") == "canary: new will begin at 1 %"
    assert line(canary(), "stopped", now, "x") is None is line(experiment(), "running", now, "x")


def test_what_it_is_going_to_do_in_words():
    assert plan(experiment()) is None
    assert plan(canary(metrics=METRICS, unit="session")) == (
        "canary: new at 1 %, 5 %, 20 %, 50 %; each for 10 minutes and 100 sessions at least; back to 0 %"
        " beyond the guardrails (latency 20 %) or where it fails more often"
    )
