"""What the metrics say of requests: every one is accounted for, and its times are its own."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from serve.job import DeadlineError, EngineError
from serve.request import GenerationRequest, SamplingParams, Target
from tests import tiny
from tests.serve.packed import engine_of
from tests.serve.scrape import scrape, total

PAUSE = 0.02


@pytest.fixture
def engine(zoo):
    made = engine_of(zoo("adapter", "llama"), max_model_len=64, slots=2, metrics={"prefix": "vllm:"})
    yield made
    made.stop()


@pytest.fixture
def slow(engine, monkeypatch):
    """Each step takes PAUSE at least."""
    forward = engine.mixture.model.forward

    def wait(*args, **kwargs):
        time.sleep(PAUSE)
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine.mixture.model, "forward", wait)


def request(tokens=4, target=None, **params):
    params = SamplingParams(max_tokens=tokens, **{"ignore_eos": True, **params})
    return GenerationRequest(tiny.prompt(1, 5), params, target or Target("static"))


def outcomes(samples):
    return {key[1:]: value for key, value in samples.items() if key[0] == "twinserve_requests_total"}


def balances(samples):
    received = samples["twinserve_requests_received_total",]
    under_way = samples["twinserve_requests_running",] + samples["twinserve_requests_waiting",]
    return received == under_way + total(samples, "twinserve_requests_total")


def until(condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_every_request_is_accounted_for_at_any_time(engine, slow, monkeypatch):
    """Finished, cut off, cancelled while it ran and while it waited, late and broken ones."""
    scrapes, over = [], threading.Event()

    def watch():
        while not over.is_set():
            scrapes.append(scrape(engine))

    async def leave_early():
        streams = [engine.stream(request(50)) for _ in range(3)]
        tasks = [asyncio.ensure_future(anext(stream)) for stream in streams]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task, stream in zip(tasks, streams, strict=True):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await stream.aclose()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        first = engine.generate([request(1)])[0].token_ids[0]
        ends = request(9, Target("task", task="t0"), stop_token_ids=tuple(range(97)))
        engine.generate([request(3), ends, request(2, Target("mixture", mixture={"t1": 0.5}))])
        asyncio.run(leave_early())
        until(lambda: scrape(engine)["twinserve_requests_running",] == 0)
        engine.timeout = 3 * PAUSE
        with pytest.raises(DeadlineError):
            engine.generate([request(50)])
        engine.timeout = None
        monkeypatch.setattr(engine.steps.runner, "run", lambda work: [RuntimeError("lost")] * len(work))
        with pytest.raises(EngineError):
            engine.generate([request(4)])
    finally:
        over.set()
        watcher.join()
    assert isinstance(first, int)
    assert len(scrapes) > 5 and all(map(balances, scrapes))
    assert any(one["twinserve_requests_waiting",] for one in scrapes)
    assert any(one["twinserve_requests_running",] == 2 for one in scrapes)
    last = scrape(engine)
    assert outcomes(last) == {
        ("static", "length"): 2,
        ("t0", "stop"): 1,
        ("mixture", "length"): 1,
        ("static", "cancelled"): 3,
        ("static", "deadline"): 1,
        ("static", "failed"): 1,
    }
    reasons = {key[1]: value for key, value in last.items() if key[0] == "vllm:request_success_total"}
    assert reasons == {"stop": 1, "length": 3, "abort": 3, "error": 2}
    assert balances(last)


def test_requests_of_a_stopped_engine_failed(engine, slow):
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(engine.generate, [request(50)]) for _ in range(3)]
        until(lambda: scrape(engine)["twinserve_requests_received_total",] == 3)
        engine.stop()
    assert all(isinstance(one.exception(), EngineError) for one in answers)
    with pytest.raises(EngineError, match="not running"):
        engine.generate([request()])
    assert outcomes(scrape(engine)) == {("static", "failed"): 4}
    assert balances(scrape(engine))


def test_latencies_are_those_of_the_tokens(engine, slow):
    # Two slots: the third waits for one of the others.
    begun = time.monotonic()
    engine.generate([request(4), request(4), request(4)])
    seconds = time.monotonic() - begun
    found = {key[0].removeprefix("vllm:"): value for key, value in scrape(engine).items() if len(key) == 2}
    assert found["prompt_tokens_total"] == 15 and found["generation_tokens_total"] == 12
    assert found["time_to_first_token_seconds_count"] == found["e2e_request_latency_seconds_count"] == 3
    assert found["inter_token_latency_seconds_count"] == 9
    assert found["inter_token_latency_seconds_sum"] >= 9 * PAUSE
    assert found["time_to_first_token_seconds_sum"] >= (1 + 1 + 4) * PAUSE
    whole = found["e2e_request_latency_seconds_sum"]
    parts = found["time_to_first_token_seconds_sum"] + found["inter_token_latency_seconds_sum"]
    assert parts == pytest.approx(whole, abs=PAUSE) and whole <= 3 * seconds
    queue = scrape(engine)
    assert queue["twinserve_queue_seconds_count",] == 3
    assert 3 * PAUSE <= queue["twinserve_queue_seconds_sum",] < whole
    assert queue["twinserve_step_tokens_sum",] == 15 + 9


def test_load_is_told_by_the_names_that_gateways_look_for(engine, slow):
    with ThreadPoolExecutor(3) as pool:
        targets = [Target("task", task="t2"), Target("mixture", mixture={"t0": 0.5, "t2": 0.5})]
        answers = [pool.submit(engine.generate, [request(30, target)]) for target in targets]
        until(lambda: scrape(engine)["vllm:num_requests_running", "tiny"] == 2)
        answers.append(pool.submit(engine.generate, [request(2, Target("task", task="t1"))]))
        until(
            lambda: any(key[:4] == ("vllm:lora_requests_info", "3", "t0,t2", "t1") for key in scrape(engine))
        )
        busy = scrape(engine)
        for one in answers:
            one.result()
    assert busy["vllm:num_requests_waiting", "tiny"] == 1
    rows = 2 * 64 * engine.scheduler.position_bytes
    assert busy["vllm:kv_cache_usage_perc", "tiny"] == pytest.approx(rows / engine.scheduler.kv_bytes)
    assert busy["vllm:lora_requests_info", "3", "t0,t2", "t1"] == pytest.approx(time.time(), abs=60)
    idle = scrape(engine)
    assert idle["vllm:kv_cache_usage_perc", "tiny"] == 0
    assert ("vllm:lora_requests_info", "3", "", "") in idle


def test_passes_of_the_check_at_start_up_are_not_counted(engine):
    assert total(scrape(engine), "twinserve_passes_total") == 0
    engine.generate([request(4)])
    assert total(scrape(engine), "twinserve_passes_total") == 4


@pytest.mark.parametrize("prefix", ["", "acme_"])
def test_the_prefix_of_vllms_names_can_be_another(zoo, prefix):
    engine = engine_of(zoo("adapter", "llama"), metrics={"prefix": prefix})
    try:
        engine.generate([request(4)])
        found = scrape(engine)
    finally:
        engine.stop()
    assert found[f"{prefix}generation_tokens_total", "tiny"] == 4
    assert found[f"{prefix}num_requests_waiting", "tiny"] == 0
    assert not any(key[0].startswith("vllm:") for key in found)


def test_the_build_is_told(engine):
    (build,) = [key for key in scrape(engine) if key[0] == "twinserve_build_info"]
    assert "tiny" in build and len(build) > 3
