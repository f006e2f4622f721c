"""Canaries that move by themselves: on a board, with a clock that is set, and with several processes."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.experiments import canaries
from serve.experiments.board import Asked
from serve.experiments.canaries import Canaries
from serve.experiments.canary import BY_ITSELF, Evidence, share_of, with_share
from serve.experiments.memory import Memory
from serve.experiments.records import Change, Served
from serve.experiments.standing import Standing
from serve.experiments.store.errors import StoreAwayError
from serve.experiments.store.store import Store
from tests.serve.experiments.made import Clock, experiment
from tests.serve.experiments.ramping import Process, Shared, patched, ramp
from tests.serve.switching import in_loop, until

STEPS = (0.01, 0.05, 0.2, 0.5)
WARNINGS = "serve.experiments.canaries"


@in_loop
async def test_a_good_arm_goes_to_the_end_step_by_step_and_stays_there():
    one = Process(Memory(), Clock(), [ramp()])
    seen = [one.share]
    for _ in range(6):
        one.visits("new", 5)
        seen.append(await one.look(11))
    assert seen == [*STEPS, 0.5, 0.5, 0.5]
    reasons = [change.reason for change in one.storage.history("trial")]
    assert reasons == [
        "declared",
        "canary: new from 1 % to 5 % (2 of 4): no guardrail broken after 11 minutes and 5 users",
        "canary: new from 5 % to 20 % (3 of 4): no guardrail broken after 11 minutes and 5 users",
        "canary: new from 20 % to 50 % (4 of 4): no guardrail broken after 11 minutes and 5 users",
    ]
    assert (one.moves("step"), one.moves("rollback")) == (3, 0)
    share = one.metrics.registry.get_sample_value(
        "twinserve_experiment_canary_share", {"experiment": "trial"}
    )
    assert share == 0.5


@in_loop
async def test_both_time_and_units_are_waited_for_anew_at_each_step():
    one = Process(Memory(), Clock(), [ramp()])
    one.visits("new", 5)
    assert await one.look(9) == 0.01 and await one.look(2) == 0.05
    assert await one.look(11) == 0.05, "units of the version before do not count"
    one.visits("new", 5)
    assert await one.look() == 0.2


@in_loop
async def test_an_arm_that_fails_is_taken_back_by_a_handful_of_users_and_stays_back(caplog):
    one = Process(Memory(), Clock(), [ramp()])
    one.visits("new", 5)
    assert await one.look(11) == 0.05
    with caplog.at_level(logging.INFO):
        one.visits("new", 2, failed=True)
        assert await one.look() == 0
    standing = one.board.get("trial")
    assert (standing.version, standing.state) == (3, "running")
    assert one.reason == (
        "canary: new rolled back from 5 %: of 2 users whose requests failed on the server's side 2 had it,"
        " and by its share 5 % would"
    )
    assert [record.levelname for record in caplog.records if record.name == WARNINGS] == ["WARNING"]
    for _ in range(3):
        one.visits("old", 20)
        assert await one.look(60) == 0
    assert one.board.get("trial").version == 3 and one.moves("rollback") == 1


@in_loop
async def test_at_the_last_step_it_is_still_watched_by_its_guardrail():
    one = Process(Memory(), Clock(), [ramp(steps=[0.5])])
    for number in range(400):
        choice = one.board.choose(Asked("r", f"user-{number}"))
        slower = 1.5 if choice.arm.name == "new" else 1.0
        one.served(choice, {"error": 0.0, "latency": slower * (1 + 0.01 * (number % 3))})
    assert await one.look() == 0
    told = "canary: new rolled back from 50 %: latency 50.2 % worse, beyond its guardrail of 20 %"
    assert one.reason == told


@in_loop
async def test_a_share_given_by_hand_is_respected_and_resumes_what_was_taken_back():
    one = Process(Memory(), Clock(), [ramp()])
    await patched(one, 0.1)
    one.visits("new", 5)
    assert await one.look(11) == 0.2
    one.visits("new", 5, failed=True)
    assert await one.look() == 0
    await patched(one, 0.02, "mended")
    assert await one.look() == 0.02, "what it did before it was mended is forgiven"
    one.visits("new", 5)
    assert await one.look(11) == 0.05
    one.visits("new", 5, failed=True)
    assert await one.look() == 0
    assert one.moves("rollback") == 2


@in_loop
async def test_a_canary_can_be_called_off_by_hand():
    one = Process(Memory(), Clock(), [ramp()])
    standing = one.board.get("trial")
    await one.board.change("trial", standing.experiment.model_copy(update={"canary": None}), "no more")
    one.visits("new", 5)
    assert [arm.share for arm in one.board.get("trial").experiment.arms] == [0.99, 0.01]
    await one.canaries.look()
    assert one.board.get("trial").version == 2


@in_loop
async def test_after_a_restart_it_goes_on_where_it_was():
    memory, clock = Memory(), Clock()
    one = Process(memory, clock, [ramp()])
    one.visits("new", 5)
    await one.look(11)
    one.visits("new", 5)
    clock.now += 600
    again = Process(memory, clock, [ramp()])
    assert again.share == 0.05
    assert await again.look() == 0.2


@in_loop
async def test_a_clock_that_is_set_back_takes_no_longer_than_the_step():
    wall, steady = Clock(), Clock()
    one = Process(Memory(), wall, [ramp()])
    one.canaries._monotonic = steady
    one.visits("new", 5)
    assert await one.look() == 0.01
    wall.now -= 86_400
    steady.now += 599
    assert await one.look() == 0.01
    steady.now += 1
    assert await one.look() == 0.05


@in_loop
async def test_a_mismatch_of_shares_holds_it_and_is_told_once(caplog):
    one = Process(Memory(), Clock(), [ramp()])
    one.visits("new", 5)
    await one.look(11)
    one.visits("new", 5)
    for number in range(300):
        told = ("new", f"u{number}", None, one.clock.now, {"error": 0.0})
        one.storage.put(Served(f"x{number}", "trial", 2, *told))
    for _ in range(3):
        assert await one.look(11) == 0.05
    told = [record.message for record in caplog.records if record.name == WARNINGS]
    assert told == [
        "the canary of experiment trial holds: units did not fall to the arms by their shares, so no figure"
        " can be trusted"
    ]


@in_loop
async def test_while_the_store_is_away_or_a_record_is_broken_it_holds_and_then_goes_on(caplog, monkeypatch):
    one = Process(Memory(), Clock(), [ramp()])
    one.visits("new", 5)

    def away(*_: Any) -> Any:
        raise StoreAwayError("no route to host")

    with monkeypatch.context() as patch:
        patch.setattr(one.storage, "served", away)
        assert await one.look(11) == 0.01 and await one.look(11) == 0.01
    with monkeypatch.context() as patch:
        patch.setattr(one.storage, "history", lambda _: 1 / 0)
        assert await one.look() == 0.01
    with monkeypatch.context() as patch:
        patch.setattr(one.storage, "save_experiment", away)
        assert await one.look() == 0.01
    broken = Served("nan", "trial", 1, "old", "u", None, one.clock.now, {"latency": float("nan")})
    one.storage.put(broken)
    assert await one.look() == 0.01
    del one.storage._served["nan"]
    assert await one.look() == 0.05
    told = [record.message for record in caplog.records if record.name == WARNINGS]
    assert [sentence.count("no route to host") for sentence in told] == [1, 0, 0]
    assert "could not be judged" in told[1] and "its latency is nan" in told[2]


@in_loop
async def test_of_two_processes_one_moves_and_the_other_takes_it_over():
    memory, clock = Shared(), Clock()
    one, other = Process(memory, clock, [ramp()]), Process(memory, clock, [ramp()])
    one.visits("new", 5)
    assert await one.look(11) == 0.05
    assert other.board._standing["trial"].version == 1, "it has not looked yet"
    assert await other.look() == 0.05
    assert len(memory.history("trial")) == 2 and other.moves("step") == 0
    one.visits("new", 5)
    await asyncio.gather(one.look(11), other.look())
    assert len(memory.history("trial")) == 3
    for each in (one, other):
        await each.board.agree()
        assert each.share == 0.2


@in_loop
async def test_a_version_that_another_process_took_in_between_is_taken_over(monkeypatch):
    memory, clock = Shared(), Clock()
    one, other = Process(memory, clock, [ramp()]), Process(memory, clock, [ramp()])
    one.visits("new", 5)
    save, faster = memory.save_experiment, [other]

    def overtaken(change: Change) -> None:
        if faster:
            standing = faster.pop().board.get("trial")
            back = with_share(standing.experiment, 0)
            save(replace(standing, version=2, experiment=back, reason="canary: other").kept())
        save(change)

    monkeypatch.setattr(memory, "save_experiment", overtaken)
    assert await one.look(11) == 0
    assert one.reason == "canary: other" and one.moves("step") == 0


@pytest.mark.parametrize("failed", [False, True])
def test_records_of_a_database_are_read_and_what_moved_is_in_its_history(tmp_path, failed):
    async def run() -> list[Change]:
        one = Process(store, Clock(), [ramp()])
        one.visits("new", 5, failed)
        assert store.flush(10)
        await one.look(11)
        return store.history("trial")

    store = Store.open(f"sqlite:///{tmp_path / 'e.db'}", tmp_path / "spool")
    try:
        first, second = asyncio.run(run())
    finally:
        store.close()
    assert first.reason == "declared"
    assert second.reason.startswith(f"canary: new {'rolled back from 1 %' if failed else 'from 1 % to 5 %'}")


@in_loop
async def test_the_task_sleeps_without_a_canary_looks_with_one_and_ends_with_its_context(monkeypatch):
    monkeypatch.setattr(canaries, "LOOK", 0.001)
    monkeypatch.setattr(canaries, "PATIENCE", 0.0)
    reads: list[bool] = []

    class Counting(Memory):
        def history(self, name: str) -> Any:
            reads.append(threading.current_thread() is threading.main_thread())
            return super().history(name)

    looks = []
    one = Process(Counting(), Clock())
    look = one.canaries.look

    async def counted() -> None:
        looks.append(1)
        await look()

    monkeypatch.setattr(one.canaries, "look", counted)
    before = asyncio.all_tasks()
    async with one.canaries.running():
        await one.board.start(experiment("plain", layer="other"), "begin")
        await asyncio.sleep(0.05)
        assert not looks
        await one.board.start(ramp(), "begin")
        await until(lambda: len(reads) > 2)
        one.visits("new", 5)
        one.clock.now += 700
        await until(lambda: one.share == 0.05)
        await one.board.stop("trial", "done")
        await asyncio.sleep(0.02)
        done = len(looks)
        await asyncio.sleep(0.05)
        assert len(looks) == done
    assert asyncio.all_tasks() == before and not any(reads), "records are read beside the event loop"


class Scripted(Canaries):
    """Judges by what the test says."""

    evidence = Evidence(0)

    def _read(self, standing: Any) -> Evidence | None:
        held = self._storage.history(standing.name)[-1].version
        return self.evidence if held == standing.version else None


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("minutes"), st.integers(-30, 30)),
        st.tuples(st.just("units"), st.integers(0, 10)),
        st.tuples(st.just("broken"), st.booleans()),
        st.tuples(st.just("look"), st.integers(0, 1)),
        st.tuples(st.just("both"), st.none()),
        st.tuples(st.just("patch"), st.sampled_from([0.0, 0.005, 0.05, 0.3, 0.7])),
    ),
    max_size=40,
)


@given(events=EVENTS)
def test_whatever_happens_no_step_is_left_out_and_what_is_broken_goes_back_once(events):
    async def run() -> None:
        memory, clock = Shared(), Clock()
        both = [Process(memory, clock, [ramp()], Scripted) for _ in range(2)]
        for what, value in events:
            if what == "minutes":
                clock.now += 60 * value
            elif what == "units":
                Scripted.evidence = Evidence(value, Scripted.evidence.broken)
            elif what == "broken":
                Scripted.evidence = Evidence(Scripted.evidence.units, ("latency",) if value else ())
            elif what == "look":
                await both[value].look()
            elif what == "both":
                await asyncio.gather(*(one.look() for one in both))
            else:
                await patched(both[0], value)
        for one in both:
            await one.board.agree()
        assert both[0].board.all() == both[1].board.all()
        history = memory.history("trial")
        assert [change.version for change in history] == list(range(1, len(history) + 1))
        shares = [share_of(Standing.of(change).experiment) for change in history]
        for before, now, change in zip(shares, shares[1:], history[1:], strict=False):
            if change.reason.startswith(BY_ITSELF):
                assert before > 0, "it does not begin again by itself"
                assert now == (0 if "rolled back" in change.reason else min(s for s in STEPS if s > before))

    Scripted.evidence = Evidence(0)
    asyncio.run(run())
