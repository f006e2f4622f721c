"""Background requests: right like all others, in nobody's way, and in no figure."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serve import steps
from serve.job import DeadlineError, DisplacedError, EngineError
from serve.kvcache import position_bytes
from serve.request import GenerationRequest, SamplingParams, Target
from serve.scheduler import Entry, Scheduler, State
from serve.times import Times
from tests import tiny
from tests.serve.packed import engine_of
from tests.serve.scrape import scrape

MIXTURES = [{}, {"t0": 1.0}, {"t1": 0.5, "t2": 0.5}]


def request(tokens=4, length=5, seed=1, background=False, mixture=None, **fields):
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    target = Target("mixture", mixture=mixture or {})
    return GenerationRequest(tiny.prompt(seed, length), params, target, background=background, **fields)


@pytest.fixture
def engine(zoo):
    made = engine_of(zoo("adapter", "llama"), max_model_len=128, slots=8, metrics={"prefix": "vllm:"})
    yield made
    made.stop()


async def said(engine, asked):
    return [token async for event in engine.stream(asked) for token in event.token_ids]


def test_they_say_what_they_would_in_front_whatever_comes_between(engine):
    asked = [request(20, 5 + 7 * i, i, mixture=MIXTURES[i % 3]) for i in range(6)]
    alone = [list(engine.generate([one])[0].token_ids) for one in asked]

    async def go():
        behind = [asyncio.create_task(said(engine, replace(one, background=True))) for one in asked]
        for _ in range(3):
            await asyncio.sleep(0.02)
            front = [said(engine, one) for one in asked[:2]]
            assert await asyncio.gather(*front) == alone[:2]
        return await asyncio.gather(*behind)

    assert asyncio.run(go()) == alone


def test_a_pass_is_given_up_for_one_that_comes(engine, monkeypatch):
    """The newcomer does not wait for a long pass of the background, and that one is computed again."""
    # Beside the newcomer it is not to have a turn.
    engine.steps.owed = 1e9
    asked = request(2, 100, mixture={"t0": 1.0})
    expected = list(engine.generate([asked])[0].token_ids)
    begun, go_on = threading.Event(), threading.Event()
    passes, given_up = [], []
    run = engine.steps.runner.run

    def watched(work, give_way=None):
        passes.append("background" if give_way else "front")

        def asks():
            if not given_up:
                begun.set()
                assert go_on.wait(5)
            return give_way()

        try:
            return run(work, asks if give_way else None)
        except Exception:
            given_up.append(len(passes))
            raise

    monkeypatch.setattr(engine.steps.runner, "run", watched)

    async def go():
        behind = asyncio.create_task(said(engine, replace(asked, background=True)))
        await asyncio.to_thread(begun.wait, 5)
        front = asyncio.create_task(said(engine, request(3)))
        while not engine.steps.urgent:
            await asyncio.sleep(0.001)
        go_on.set()
        assert len(await front) == 3
        return await behind

    assert asyncio.run(go()) == expected
    assert given_up == [1] and passes[1:4] == ["front"] * 3 and set(passes[4:]) == {"background"}


def test_beside_others_they_get_their_share_of_the_time_and_no_more(engine, monkeypatch):
    seconds, passes, sent = 0.0, [], threading.Event()
    run = engine.steps.runner.run

    def watched(work, give_way=None):
        nonlocal seconds
        assert sent.wait(5)
        seconds += 1.0
        passes.append("front" if give_way is None else "behind")
        assert give_way is None or not give_way(), "given up, it would never be done"
        return run(work, give_way)

    monkeypatch.setattr(steps, "SHARE", 0.1)
    monkeypatch.setattr(engine.steps, "clock", lambda: seconds)
    monkeypatch.setattr(engine.steps.runner, "run", watched)
    asked = [request(4, seed=seed, mixture=MIXTURES[seed]) for seed in range(3)]
    sent.set()
    expected = [list(engine.generate([one])[0].token_ids) for one in asked]
    passes.clear()
    sent.clear()

    async def go():
        front = asyncio.create_task(said(engine, request(110)))
        while not engine.scheduler.busy:
            await asyncio.sleep(0.001)
        behind = [asyncio.create_task(said(engine, replace(one, background=True))) for one in asked]
        while engine._inbox.qsize() < len(asked):
            await asyncio.sleep(0.001)
        sent.set()
        answers = await asyncio.gather(*behind)
        assert not front.done()
        await front
        return answers

    assert asyncio.run(go()) == expected
    turns = [n for n, whose in enumerate(passes) if whose == "behind"]
    # All of them together: the prompts, which give the first token, and three tokens more.
    assert len(turns) == 4
    assert {after - before for before, after in itertools.pairwise(turns)} == {11}
    # What is computed while nobody else is here costs nothing, and pays for nothing.
    engine.steps.owed = 7.0
    assert len(asyncio.run(said(engine, request(3, background=True)))) == 3
    assert engine.steps.owed == 7.0


def test_beside_others_they_have_no_turn_while_somebody_waits(zoo, monkeypatch):
    made = engine_of(zoo("adapter", "llama"), slots=1)
    whose = []
    run = made.steps.runner.run

    def watched(work, give_way=None):
        whose.append("front" if give_way is None else "behind")
        return run(work, give_way)

    monkeypatch.setattr(made.steps.runner, "run", watched)
    monkeypatch.setattr(steps, "SHARE", 0.9)

    async def go():
        front = [asyncio.create_task(said(made, request(20, seed=seed))) for seed in range(3)]
        while len(made.scheduler.waiting) < 2:
            await asyncio.sleep(0.001)
        behind = asyncio.create_task(said(made, request(4, background=True)))
        await asyncio.gather(*front)
        assert len(await behind) == 4

    try:
        asyncio.run(go())
        assert whose == ["front"] * 60 + ["behind"] * 4
    finally:
        made.stop()


def test_nobody_counts_them(engine):
    # How passes are computed is told of all of them.
    loose = ("passes", "kernels", "kv_bytes", "lora_requests_info")  # the last has the time as its value
    before = {k: value for k, value in scrape(engine).items() if not any(part in k[0] for part in loose)}
    times = Times()

    async def go():
        await said(engine, request(6, background=True, mixture={"t0": 1.0}, times=times))

    asyncio.run(go())
    after = scrape(engine)
    assert {key: after[key] for key in before} == before
    assert times.outcome == "length" and 0 < times.working <= times.ended - times.admitted
    assert engine.prefixes.nbytes == 0, "what others come back for must not go for it"


def test_no_weights_are_composed_for_them(zoo):
    made = engine_of(zoo("adapter", "llama"), composition="composed")
    try:
        kept = dict(made.planner._kept)
        asyncio.run(said(made, request(8, background=True, mixture={"t1": 1.0})))
        assert made.planner._kept == kept and made.planner.lookups.total() == 0
        made.generate([request(8, mixture={"t1": 1.0})])
        assert len(made.planner._kept) == len(kept) + 1
    finally:
        made.stop()


def test_they_make_room_youngest_first(zoo, monkeypatch):
    z = zoo("adapter", "llama")
    cost = position_bytes(z.base.config, torch.float32)
    made = engine_of(z, slots=3, kv_memory=3 * 64 * cost)
    forward = made.mixture.model.forward
    monkeypatch.setattr(
        made.mixture.model, "forward", lambda *a, **k: (time.sleep(0.01), forward(*a, **k))[1]
    )

    async def go():
        behind = [asyncio.create_task(said(made, request(50, seed=i, background=True))) for i in range(3)]
        while len(made.scheduler.running) < 3:
            await asyncio.sleep(0.002)
        assert len(await said(made, request(5))) == 5
        return await asyncio.gather(*behind, return_exceptions=True)

    try:
        first, second, third = asyncio.run(go())
        assert len(first) == len(second) == 50
        assert isinstance(third, DisplacedError) and "needed the room" in str(third)
        assert made.steps.idle and not made.scheduler.running
    finally:
        made.stop()


def test_cancelled_late_or_stopped_they_leave_nothing_behind(engine):
    async def go():
        stream = engine.stream(request(100, background=True))
        await anext(stream)
        await stream.aclose()
        with pytest.raises(DeadlineError):
            await said(engine, request(100, background=True, timeout=0.0))
        assert len(await said(engine, request(3))) == 3
        assert engine.steps.idle
        late = asyncio.create_task(said(engine, request(100, background=True)))
        while not engine.scheduler.running:
            await asyncio.sleep(0.001)
        assert engine.running == 0, "no drain waits for it"
        await asyncio.to_thread(engine.finish)
        with pytest.raises(EngineError):
            await late

    asyncio.run(go())


def test_a_failing_step_fails_them_too_and_the_engine_goes_on(engine, monkeypatch):
    run = engine.steps.runner.run
    monkeypatch.setattr(engine.steps.runner, "run", lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))

    async def go():
        with pytest.raises(EngineError, match="failed on this batch"):
            await said(engine, request(background=True))
        monkeypatch.setattr(engine.steps.runner, "run", run)
        assert len(await said(engine, request(4, background=True))) == 4

    asyncio.run(go())


SLOTS, BUDGET = 5, 6 * 128
entries = st.builds(
    lambda prompt, answer, background: Entry(None, prompt, prompt + answer, background=background),
    st.integers(1, 90),
    st.integers(1, 30),
    st.booleans(),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.one_of(entries, st.booleans(), st.integers(2, 9)), max_size=60))
def test_in_every_history_the_background_waits_and_gives_way(history):
    """An entry arrives; True or False: a turn, of the background or not; a number: one that runs ends."""
    scheduler: Scheduler[None] = Scheduler(SLOTS, BUDGET, 1, 32)
    memory: dict[int, int] = {}  # row -> whose data it holds, moved as the scheduler says

    def moved(moves):
        for move in moves:
            memory[move.target] = memory.pop(move.source)

    def leaves(entry, state=State.FINISHED):
        memory.pop(entry.row, None)
        moved(scheduler.finish(entry, state))

    for event in history:
        if isinstance(event, Entry):
            scheduler.add(event)
        elif not isinstance(event, bool):
            if scheduler.running:
                leaves(scheduler.running[event % len(scheduler.running)])
        else:
            background = scheduler.behind and (not scheduler.busy or (event and not scheduler.waiting))
            while True:
                if (admitted := scheduler.admit(background)) is not None:
                    entry, move = admitted
                    assert entry.background is background
                    moved([move] if move else [])
                    assert entry.row not in memory
                    memory[entry.row] = id(entry)
                elif (entry := scheduler.in_the_way()) is not None:
                    assert entry.background and scheduler.waiting
                    leaves(entry, State.CANCELLED)
                else:
                    break
            step = scheduler.plan(background)
            computed = [*step.decode, *(chunk.entry for chunk in step.prefill)]
            in_front = [e for e in scheduler.running if not e.background]
            kinds = {e.background for e in scheduler.running}
            assert {e.background for e in computed} == {background} & kinds
            assert computed or not background, "a turn for nothing"
            if scheduler.waiting:
                held = [e for e in scheduler.running if e.background]
                assert not held or not scheduler._fits(scheduler.waiting[0], in_front)
            scheduler.advance(step)
        assert [e.row for e in scheduler.running] == list(range(len(scheduler.running)))
        assert memory == {e.row: id(e) for e in scheduler.running}
        assert [e.background for e in scheduler.running] == sorted(e.background for e in scheduler.running)
        assert len(scheduler.running) * scheduler.longest <= BUDGET
