"""What the metrics say of the router, and what becomes of requests that it never reached."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from serve.engine import Engine
from serve.job import DeadlineError, EngineError
from serve.request import GenerationRequest, SamplingParams, Target
from serve.settings import EngineSettings
from tests import tiny
from tests.serve.packed import COSTS
from tests.serve.routed import add_router
from tests.serve.scrape import scrape, total


@pytest.fixture(scope="module")
def bundle(zoo, tmp_path_factory):
    path = tmp_path_factory.mktemp("observed") / "bundle"
    shutil.copytree(zoo("adapter", "llama").bundle.path, path)
    add_router(path, features="embedding")
    return path


@pytest.fixture
def engine(bundle):
    made = Engine.open(bundle, EngineSettings(threads=1, costs=COSTS), name="tiny")
    yield made
    made.stop()


def request(turn, target=None):
    target = target or Target("dynamic")
    return GenerationRequest(tiny.prompt(1, 5), SamplingParams(2), target, (turn,))


def each(engine, requests):
    def one(asked):
        try:
            return engine.generate([asked])[0]
        except EngineError as error:
            return error

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(one, requests))


def test_shares_of_experts_confidence_and_abstentions_are_the_routers(engine):
    assert scrape(engine)["twinserve_routed_weight_total", "t1"] == 0, "known before the first request"
    turns = ["5 + 5 =", "7 + 1 =", "PAINT 1 OVER 2", "QQQQQQ"]
    named = request("5 + 5 =", Target("task", task="t1"))
    answers = engine.generate([*map(request, turns), named])
    found = scrape(engine)
    for task in ("t0", "t1", "t2"):
        wanted = sum(answer.routing.mixture.get(task, 0) for answer in answers[:4])
        assert found["twinserve_routed_weight_total", task] == wanted
    assert found["twinserve_abstentions_total",] == sum(not a.routing.mixture for a in answers[:4]) == 1
    assert found["twinserve_router_confidence_count",] == 4
    confidence = sum(answer.routing.confidence for answer in answers[:4])
    assert found["twinserve_router_confidence_sum",] == pytest.approx(confidence)


def test_a_failing_router_fails_its_requests_and_no_others(engine, monkeypatch):
    def broken(queries):
        if queries:
            raise RuntimeError("no scores")
        return []

    monkeypatch.setattr(engine.chooser, "routes", broken)
    engine._put(lambda: time.sleep(0.2))  # so that all are routed together
    failed = each(engine, [request("5 + 5 ="), request("QQQQQQ"), request("7 + 1 =")])
    assert [str(one) for one in failed] == ["the router failed on this request; send it again"] * 3
    assert len(engine.generate([request("", Target("static"))])) == 1
    found = scrape(engine)
    assert found["twinserve_requests_total", "dynamic", "failed"] == 3
    assert total(found, "twinserve_requests_total") == 4 == found["twinserve_requests_received_total",]


def test_requests_that_are_late_before_they_are_routed_are_told_so(engine):
    engine.timeout = 0.05
    engine._put(lambda: time.sleep(0.2))
    late = each(engine, [request("5 + 5 ="), request("QQQQQQ")])
    assert all(isinstance(one, DeadlineError) for one in late)
    assert scrape(engine)["twinserve_requests_total", "dynamic", "deadline"] == 2
    assert scrape(engine)["twinserve_requests_waiting",] == 0
