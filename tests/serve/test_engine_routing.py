"""The engine and its router: whole conversations in, scores and mixtures out; routers that do not fit."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from contextlib import contextmanager

import pytest

from compress.bundle import Bundle, edit
from compress.errors import InputError
from router import load_router
from serve import steps
from serve.engine import Engine
from serve.request import GenerationRequest, SamplingParams, Target
from serve.settings import EngineSettings
from tests import tiny
from tests.serve.packed import COSTS
from tests.serve.routed import add_router, shared_base

CONVERSATIONS = [
    ("5 + 5 =",),
    ("PAINT 1 OVER 2",),
    ("PAINT 1 OVER 2", "5 + 5 ="),
    ("5 + 5 =", "PAINT 1 OVER 2"),
    ("spell 1 then 2", "5 + 5 =", "PAINT 1 OVER 2"),
    ("QQQQQQ",),
]


@pytest.fixture(scope="module")
def routed(zoo, tmp_path_factory):
    """``routed(**settings)``: a bundle with such a router."""
    made = {}

    def get(**settings):
        key = tuple(settings.items())
        if key not in made:
            made[key] = tmp_path_factory.mktemp("routed") / "bundle"
            shutil.copytree(zoo("adapter", "llama").bundle.path, made[key])
            add_router(made[key], **settings)
        return made[key]

    return get


@contextmanager
def opened(path, **settings):
    engine = Engine.open(path, EngineSettings(threads=1, costs=COSTS, **settings), name="tiny")
    try:
        yield engine
    finally:
        engine.stop()


def request(*turns, kind="dynamic"):
    return GenerationRequest(tiny.prompt(1, 5), SamplingParams(2), Target(kind), turns)


def test_tokenising_texts_to_score_holds_no_events_up(routed, monkeypatch):
    with opened(routed(features="hidden")) as engine:
        moved_on, query = threading.Event(), engine._query

        def slow(turns):
            assert moved_on.wait(10)
            return query(turns)

        monkeypatch.setattr(engine, "_query", slow)

        async def run():
            scores = asyncio.create_task(engine.route([("5 + 5 =",)]))
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(moved_on.set)
            return await scores

        assert len(asyncio.run(run())) == 1


def given_to(path, other):
    """The router of the bundle at ``path`` put into the one at ``other``."""
    with edit(other) as folder:
        shutil.copytree(path / "router", folder / "router")


@pytest.mark.parametrize("features", ["embedding", "tfidf", "hidden"])
def test_scores_are_those_of_the_composed_shared_base(routed, features):
    path = routed(features=features)
    router = load_router(path / "router")
    queries = [router.query(tiny.tokenizer(), turns) for turns in CONVERSATIONS]
    wanted = router.route(shared_base(Bundle.open(path)), queries)
    with opened(path) as engine:
        found = engine.route_now(CONVERSATIONS)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-3)
        assert (ours.known, ours.mixture) == (theirs.known, theirs.mixture)
    assert len({round(one.confidence, 2) for one in found}) > 3, "turns and their order matter"


def test_answers_get_the_mixture_that_the_whole_conversation_was_routed_to(routed):
    with opened(routed(features="hidden")) as engine:
        answers = engine.generate([request(*turns) for turns in CONVERSATIONS])
        routes = engine.route_now(CONVERSATIONS)
    assert [a.routing.mixture for a in answers] == [route.mixture for route in routes]
    assert [a.routing.mixture for a in answers[2:4]] == [{"t0": 1.0}, {"t2": 1.0}]
    assert [a.routing.confidence for a in answers] == [route.confidence for route in routes]


def test_a_sticky_router_keeps_the_expert_that_answered_before(routed):
    turns = ("5 + 5 =", "QQQQQQ")
    for sticky, mixture in ((0.0, {}), (0.5, {"t0": 1.0})):
        with opened(routed(features="hidden", sticky=sticky)) as engine:
            assert engine.generate([request(*turns)])[0].routing.mixture == mixture
            assert engine.route_now([turns[1:]])[0].mixture == {}


@pytest.mark.parametrize("turns", [(), ("",), (" \n", "\t")])
def test_nothing_to_route_is_refused_and_harms_nobody(routed, turns):
    with opened(routed(features="hidden")) as engine:
        with pytest.raises(InputError, match="no text to route; give some, or name a mixture"):
            engine.route_now([("5 + 5 =",), turns])
        with pytest.raises(InputError, match="no text to route"):
            engine.generate([request(*turns)])
        assert engine.generate([request(*turns, kind="static")])[0].routing.mixture == {}


def test_a_step_routes_no_more_tokens_than_it_may_hold(routed, monkeypatch):
    turns = [(f"{i} + {i} =", f"spell {i} then {i}") for i in range(8)]
    turns.insert(4, ("7" * 160,))
    with opened(routed(features="hidden"), step_tokens=60) as engine:
        chooser, batches = engine.chooser, []

        def watched(queries):
            batches.append([chooser.tokens(query) for query in queries])
            return routes(queries)

        routes = chooser.routes
        monkeypatch.setattr(chooser, "routes", watched)
        engine._put(lambda: time.sleep(0.3))  # so that all wait for the same step
        assert len(engine.generate([request(*own) for own in turns])) == len(turns)
    asked = [batch for batch in batches if batch]
    assert sum(map(len, asked)) == len(turns) and max(map(len, asked)) > 1
    assert all(sum(batch) <= 60 or len(batch) == 1 for batch in asked)
    assert [160] in asked, "what no step could hold goes alone"


def test_a_router_of_another_shared_base_is_refused_in_a_sentence(routed, zoo, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(zoo("full", "llama").bundle.path, other)
    path = routed(features="embedding")
    given_to(path, other)
    theirs, ours = Bundle.open(path).fingerprint[:12], Bundle.open(other).fingerprint[:12]
    with pytest.raises(InputError) as refused, opened(other):
        pass
    assert str(refused.value) == (
        f"{other / 'router'}: the router was trained on another shared base ({theirs}… instead of "
        f"{ours}…), whose features mean something else: train the router again"
    )
    add_router(other, features="embedding")
    with opened(other) as engine:
        assert engine.route_now([("5 + 5 =",)])[0].mixture == {"t0": 1.0}


def test_a_router_that_reads_only_text_fits_any_shared_base(routed, zoo, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(zoo("full", "llama").bundle.path, other)
    given_to(routed(features="tfidf"), other)
    with opened(other) as engine, opened(routed(features="tfidf")) as own:
        assert engine.route_now(CONVERSATIONS) == own.route_now(CONVERSATIONS)


def test_questions_of_the_background_are_read_together_and_need_no_pass_of_the_model(routed, monkeypatch):
    with opened(routed()) as engine:
        expected = [route.mixture for route in engine.route_now(CONVERSATIONS)]
        engine.chooser._routes.clear()
        read, routes = [], engine.chooser.routes
        monkeypatch.setattr(
            engine.chooser, "routes", lambda queries: read.append(len(queries)) or routes(queries)
        )
        monkeypatch.setattr(engine.steps.runner, "run", None)

        async def asked(turns):
            question = GenerationRequest([1], SamplingParams(0), Target("dynamic"), turns, background=True)
            return [event async for event in engine.stream(question)]

        async def go():
            return await asyncio.gather(*map(asked, CONVERSATIONS))

        answers = asyncio.run(go())
        assert [event.routing.mixture for (event,) in answers] == expected
        assert {event.finish_reason for (event,) in answers} == {"length"}
        assert engine.steps.idle and sum(read) == len(CONVERSATIONS) > len(read)
        # A small pass: half of these have more than half of its tokens.
        assert max(read) < len(CONVERSATIONS)


def test_a_question_beside_others_pays_for_the_router_alone(routed, monkeypatch):
    with opened(routed()) as engine:
        seconds, owed, sent = 0.0, [], threading.Event()
        routes, run = engine.chooser.routes, engine.steps.runner.run

        def slowly(queries):
            nonlocal seconds
            seconds += bool(queries)
            return routes(queries)

        def watched(*work):
            nonlocal seconds
            assert sent.wait(5)
            owed.append(engine.steps.owed)
            seconds += 10.0
            return run(*work)

        monkeypatch.setattr(steps, "SHARE", 0.01)
        monkeypatch.setattr(engine.steps, "clock", lambda: seconds)
        monkeypatch.setattr(engine.chooser, "routes", slowly)
        monkeypatch.setattr(engine.steps.runner, "run", watched)
        long = GenerationRequest(tiny.prompt(1, 5), SamplingParams(60, ignore_eos=True), Target("static"), ())
        question = GenerationRequest(
            [1], SamplingParams(0), Target("dynamic"), CONVERSATIONS[0], background=True
        )

        async def drained(asked):
            return [event async for event in engine.stream(asked)]

        async def go():
            front = asyncio.create_task(drained(long))
            while not engine.scheduler.busy:
                await asyncio.sleep(0.001)
            asked = asyncio.create_task(drained(question))
            while engine._inbox.empty():
                await asyncio.sleep(0.001)
            sent.set()
            await asyncio.gather(front, asked)

        asyncio.run(go())
        assert max(owed) == 100.0
