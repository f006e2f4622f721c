"""The scheduler's promises over random histories of arrivals, steps, departures and deadlines."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.scheduler import MOST_SCORED, MOST_STEPS, Entry, Scheduler, State, round_up

SLOTS, BUDGET, STEP = 4, 6 * 128, 32

entries = st.builds(
    lambda prompt, answer, deadline: Entry(None, prompt, prompt + answer, deadline),
    st.integers(1, 150),
    st.integers(1, 40),
    st.one_of(st.none(), st.floats(0, 30)),
)
# One event: a new request, an engine step, the end of some request, or its cancellation.
events = st.lists(
    st.tuples(
        st.sampled_from(["add", "step", "step", "finish", "cancel", "expire"]), st.integers(0, 99), entries
    ),
    max_size=80,
)


def step(scheduler):
    """What the engine does in one step; returns the plan."""
    while scheduler.admit() is not None:
        pass
    planned = scheduler.plan()
    scheduler.advance(planned)
    return planned


@settings(deadline=None, max_examples=300)
@given(events)
def test_every_history_keeps_the_promises(history):
    scheduler: Scheduler[None] = Scheduler(SLOTS, BUDGET, 1, STEP)
    present: list[Entry[None]] = []
    memory: dict[int, int] = {}  # row -> whose data it holds, moved as the scheduler says
    arrived: dict[int, int] = {}
    order: list[int] = []
    for now, (kind, pick, entry) in enumerate(history):
        if kind == "add":
            if scheduler.cost(1, entry.longest) <= BUDGET:
                scheduler.add(entry)
                present.append(entry)
                arrived[id(entry)] = now
        elif kind == "step":
            before = {id(e): e.done for e in scheduler.running}
            while (admitted := scheduler.admit()) is not None:
                got, move = admitted
                assert move is None, "there is no background"
                memory[got.row] = id(got)
                order.append(arrived[id(got)])
            planned = scheduler.plan()
            check_plan(scheduler, planned, before)
            scheduler.advance(planned)
        elif kind == "expire":
            late = scheduler.expired(now)
            assert {id(e) for e in late} == {
                id(e) for e in present if e.deadline is not None and e.deadline <= now
            }
            for gone in late:
                present.remove(gone)
                leave(scheduler, gone, State.CANCELLED, memory)
        elif present:
            gone = present.pop(pick % len(present))
            leave(scheduler, gone, State.FINISHED if kind == "finish" else State.CANCELLED, memory)
        check_rows(scheduler, present, memory)
    assert order == sorted(order), "first come, first served"


def leave(scheduler, entry, state, memory):
    for move in scheduler.finish(entry, state):
        memory[move.target] = memory[move.source]
    assert entry.state is state and entry.row == -1
    assert entry not in scheduler.running and entry not in scheduler.waiting, "its slot is free at once"
    assert scheduler.finish(entry) == [] and entry.state is state, "leaving twice is harmless"


def check_rows(scheduler, present, memory):
    assert [e.row for e in scheduler.running] == list(range(len(scheduler.running)))
    assert len(scheduler.running) <= SLOTS
    assert len(scheduler.running) * scheduler.longest <= BUDGET, "keys and values fit"
    assert all(memory[e.row] == id(e) for e in scheduler.running)
    assert {id(e) for e in present} == {id(e) for e in (*scheduler.running, *scheduler.waiting)}


def check_plan(scheduler, planned, before):
    chunks = {id(c.entry): c for c in planned.prefill}
    assert {id(e) for e in planned.decode} == {id(e) for e in scheduler.running if e.state is State.DECODE}, (
        "nobody who decodes is made to wait"
    )
    answers, waiting = len(planned.decode), sum(e.state is State.PREFILL for e in scheduler.running)
    times = min(MOST_STEPS, max(1, waiting / answers)) if answers else MOST_STEPS
    room = max(int(times * STEP) - answers, STEP // 4)
    assert sum(c.stop - c.start for c in planned.prefill) <= room
    assert all(c.start == c.entry.done < c.stop <= c.entry.prompt for c in planned.prefill)
    prompts = [e for e in scheduler.running if e.state is State.PREFILL]
    if prompts:
        oldest = min(prompts, key=lambda e: e.turn)
        assert id(oldest) in chunks, "the oldest prompt always advances"
        # What it does not use must be all that the others need.
        if room > sum(c.stop - c.start for c in planned.prefill):
            assert all(id(e) in chunks and chunks[id(e)].last for e in prompts)
    assert bool(planned) == bool(scheduler.running)


@settings(deadline=None, max_examples=100)
@given(st.lists(entries, min_size=1, max_size=20), st.integers(1, 6))
def test_nobody_starves(arrivals, lasting):
    """With ever new short requests behind it, every request still ends."""
    scheduler: Scheduler[None] = Scheduler(SLOTS, BUDGET, 1, STEP)
    waiting = [e for e in arrivals if scheduler.cost(1, e.longest) <= BUDGET]
    for entry in waiting:
        scheduler.add(entry)
    decoded: dict[int, int] = {}
    for _ in range(20 * len(arrivals) * lasting):
        scheduler.add(Entry(None, 1, 2))
        for entry in step(scheduler).decode:
            decoded[id(entry)] = decoded.get(id(entry), 0) + 1
            if decoded[id(entry)] >= lasting:
                scheduler.finish(entry)
        if all(e.state is State.FINISHED for e in waiting):
            return
    raise AssertionError("somebody starved")


def test_a_long_prompt_stalls_neither_answers_nor_short_prompts():
    scheduler: Scheduler[str] = Scheduler(8, 10**6, 1, 64)
    answering = Entry("answering", 4, 100), Entry("answering too", 4, 100)
    for entry in answering:
        scheduler.add(entry)
    step(scheduler)
    long, short = Entry("long", 4000, 4100), Entry("short", 20, 50)
    scheduler.add(long)
    step(scheduler)
    scheduler.add(short)
    planned = step(scheduler)
    assert planned.decode == answering
    assert [(c.entry.payload, c.stop - c.start) for c in planned.prefill] == [("long", 42), ("short", 20)]
    assert short.state is State.DECODE and long.state is State.PREFILL


@pytest.mark.parametrize(
    ("answers", "prompts", "tokens"), [(0, 1, 400), (4, 4, 96), (2, 4, 198), (1, 9, 399)]
)
def test_a_step_prefills_more_where_more_wait_than_it_holds_up(answers, prompts, tokens):
    scheduler: Scheduler[None] = Scheduler(16, 10**6, 1, 100)
    for _ in range(answers):
        scheduler.add(Entry(None, 1, 100))
    step(scheduler)
    for _ in range(prompts):
        scheduler.add(Entry(None, 1000, 1100))
    planned = step(scheduler)
    assert len(planned.decode) == answers
    assert sum(c.stop - c.start for c in planned.prefill) == tokens


def test_equal_prompts_end_one_after_the_other():
    """Sharing the step evenly would make all of them wait for the last."""
    scheduler: Scheduler[int] = Scheduler(4, 10**6, 1, 64)
    prompts = [Entry(i, 512, 600) for i in range(4)]
    for entry in prompts:
        scheduler.add(entry)
    ends = {}
    for number in range(40):
        step(scheduler)
        for entry in prompts:
            if entry.state is State.DECODE:
                ends.setdefault(entry.payload, number)
    assert ends[0] < ends[1] < ends[2] < ends[3] and ends[0] <= 2


def test_what_does_not_fit_even_alone_is_refused():
    scheduler: Scheduler[None] = Scheduler(4, 1000, 10)
    with pytest.raises(ValueError, match="101 positions need 1280 bytes"):
        scheduler.add(Entry(None, 100, 101))


def test_memory_bounds_admission_and_the_next_is_never_overtaken():
    scheduler: Scheduler[str] = Scheduler(8, 4 * 64, 1)
    for name, longest in (("a", 64), ("big", 200), ("small", 10)):
        scheduler.add(Entry(name, 1, longest))
    step(scheduler)
    assert [e.payload for e in scheduler.running] == ["a"], "two rows of 256 would not fit"
    scheduler.finish(scheduler.running[0])
    step(scheduler)
    assert [e.payload for e in scheduler.running] == ["big"]


@given(st.integers(1, 10**6))
def test_lengths_are_rounded_up(length):
    assert length <= round_up(length) < length + 64 and round_up(length) % 64 == 0


def test_logits_of_whole_chunks_are_bounded_and_the_oldest_prompt_advances():
    scheduler: Scheduler[None] = Scheduler(4, 10**6, 1, 4 * MOST_SCORED)
    scored = [Entry(None, 3 * MOST_SCORED, 3 * MOST_SCORED, scored=True) for _ in range(3)]
    plain = Entry(None, 3000, 3001)
    for entry in (scored[0], plain, *scored[1:]):
        scheduler.add(entry)
    for _ in range(9):
        oldest = next(entry for entry in scored if entry.done < entry.prompt)
        before, done = sum(entry.done for entry in scored), oldest.done
        step(scheduler)
        assert sum(entry.done for entry in scored) - before == MOST_SCORED
        assert oldest.done > done
    assert plain.done == plain.prompt, "who is not scored is not held up"
