"""The scheduler's promises over random histories of arrivals, steps and departures."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from serve.scheduler import Entry, Scheduler, State

# One event: a new request, an engine step's admission, or the departure of some request.
events = st.lists(st.tuples(st.sampled_from(["add", "admit", "leave"]), st.integers(0, 99)), max_size=80)


@settings(deadline=None, max_examples=200)
@given(slots=st.integers(1, 5), history=events)
def test_rows_are_dense_distinct_and_followed_by_their_data(slots, history):
    scheduler: Scheduler[int] = Scheduler(slots)
    present: list[Entry[int]] = []
    memory: dict[int, int] = {}  # row -> whose data it holds, moved as the scheduler says
    admitted: list[int] = []
    for number, (kind, pick) in enumerate(history):
        if kind == "add":
            entry = Entry(number)
            scheduler.add(entry)
            present.append(entry)
        elif kind == "admit":
            got = scheduler.admit()
            if got is not None:
                memory[got.row] = got.payload
                admitted.append(got.payload)
        elif present:
            entry = present.pop(pick % len(present))
            move = scheduler.finish(entry)
            if move is not None:
                memory[move.target] = memory[move.source]
            assert entry.state is State.FINISHED
            assert scheduler.finish(entry) is None, "leaving twice is harmless"
        assert [s.row for s in scheduler.running] == list(range(len(scheduler.running)))
        assert len(scheduler.running) <= slots
        assert all(memory[s.row] == s.payload for s in scheduler.running)
        assert {id(s) for s in present} == {id(s) for s in (*scheduler.running, *scheduler.waiting)}
    assert admitted == sorted(admitted), "first come, first served"
    while present:
        if scheduler.admit() is None:
            scheduler.finish(scheduler.running[0])
            present = [*scheduler.running, *scheduler.waiting]
    assert scheduler.idle
