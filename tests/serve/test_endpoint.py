"""From HTTP to weights and back: the real engine behind the real server, asked by the openai client."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from compress.bundle import Bundle
from router import load_router
from serve.engine import Engine
from serve.settings import EngineSettings
from tests import tiny
from tests.serve.routed import WORDS, add_router, shared_base
from tests.serve.server import serving


@pytest.fixture(scope="module")
def bundle(zoo_module) -> Path:
    """A bundle with a router over three kinds of prompts."""
    add_router(zoo_module.bundle.path, features="hidden")
    return zoo_module.bundle.path


@pytest.fixture(scope="module")
def zoo_module(tmp_path_factory: pytest.TempPathFactory):
    from tests.bundles import adapter_zoo

    return adapter_zoo(tmp_path_factory.mktemp("endpoint"), "llama")


@pytest.fixture(scope="module")
def address(bundle: Path) -> Iterator[str]:
    engine = Engine.open(bundle, EngineSettings(slots=4), name="tiny")
    try:
        with serving(engine) as url:
            yield url
    finally:
        engine.stop()


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60) as made:
        yield made


def greedy(z, mixture, prompt: str, tokens: int) -> str:
    """The dense float64 reference's own answer, without batching, cache or server."""
    reference, tokenizer = z.reference(mixture), tiny.tokenizer()
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
    )
    out: list[int] = []
    with torch.no_grad():
        for _ in range(tokens):
            token = int(reference(input_ids=torch.tensor([ids + out])).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            out.append(token)
    return tokenizer.decode(out, skip_special_tokens=True)


def ask(client: openai.OpenAI, prompt: str, model: str = "tiny", **options):
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=16, **options
    )


def test_concurrent_requests_of_every_kind_get_their_own_weights(client, zoo_module):
    """Tasks by router, static, named experts and explicit mixtures, all in one batch."""
    cases = [(words.format(77, 5), "tiny", None, {task: 1.0}) for task, words in WORDS.items()]
    cases += [("spell 1 then 2", "tiny:static", None, {}), ("spell 1 then 2", "tiny:t2", None, {"t2": 1.0})]
    soft = {"t0": 0.5, "t2": 0.25}
    cases += [("9 + 9 =", "tiny", {"mixture": soft}, soft), ("9 + 9 =", "tiny", {"mixture": {}}, {})]
    with ThreadPoolExecutor(len(cases)) as pool:
        answers = list(pool.map(lambda c: ask(client, c[0], c[1], extra_body=c[2]), cases))
    for (prompt, _, _, mixture), answer in zip(cases, answers, strict=True):
        choice = answer.choices[0]
        assert choice.routing["mixture"] == mixture
        assert choice.message.content == greedy(zoo_module, mixture, prompt, 16)


def test_stream_is_the_same_answer(client, zoo_module):
    plain = ask(client, "3 + 4 =").choices[0].message.content
    chunks = list(ask(client, "3 + 4 =", stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == plain
    assert chunks[0].choices[0].routing["source"] == "router"


def test_a_prompt_of_no_task_falls_back_to_the_shared_base(client, zoo_module):
    prompt = "QQQQQQ"
    choice = ask(client, prompt).choices[0]
    assert choice.routing["mixture"] == {}
    assert choice.message.content == greedy(zoo_module, {}, prompt, 16)


def test_route(address):
    body = {"input": ["5 + 5 =", "PAINT 1 OVER 2", "QQQQQQ"]}
    data = httpx.post(f"{address}/route", json=body).json()["data"]
    assert [one["mixture"] for one in data] == [{"t0": 1.0}, {"t2": 1.0}, {}]
    assert [one["known"] for one in data] == [True, True, False]
    assert all(abs(sum(one["probabilities"].values()) - 1) < 1e-6 for one in data)


@pytest.mark.parametrize("order", [(0, 2), (2, 0), (1, 0, 2)])
def test_a_conversation_arrives_turn_by_turn_oldest_first(client, address, bundle, order):
    turns = [list(WORDS.values())[i].format(5, 6) for i in order]
    messages = [{"role": "system", "content": "spell 1 then 2"}]
    for turn in turns:
        messages += [{"role": "user", "content": f" {turn}\n"}, {"role": "assistant", "content": "PAINT"}]
    router = load_router(bundle / "router")
    queries = [router.query(tiny.tokenizer(), own) for own in (turns, turns[::-1], ["\n".join(turns)])]
    right, reversed_, joined = router.route(shared_base(Bundle.open(bundle)), queries)
    assert abs(right.confidence - reversed_.confidence) > 0.01 < abs(right.confidence - joined.confidence)
    found = httpx.post(f"{address}/route", json={"messages": messages}).json()["data"][0]
    assert found["probabilities"] == pytest.approx(right.probabilities, abs=1e-3)
    answer = client.chat.completions.create(model="tiny", messages=messages[:-1], max_tokens=2)
    routing = answer.choices[0].routing
    assert right.mixture and routing["mixture"] == found["mixture"] == right.mixture
    assert routing["confidence"] == pytest.approx(right.confidence, abs=1e-3)


def test_models_and_readiness(client, address):
    assert [m.id for m in client.models.list()] == [
        "tiny",
        "tiny:dynamic",
        "tiny:static",
        "tiny:t0",
        "tiny:t1",
        "tiny:t2",
    ]
    root = address.removesuffix("/v1")
    assert httpx.get(f"{root}/health").status_code == httpx.get(f"{root}/ready").status_code == 200


def test_one_bad_request_among_good_ones_harms_nobody(client, address):
    bad = [
        {"model": "tiny", "prompt": "x", "max_tokens": 10**9},
        {"model": "tiny", "prompt": "x", "temperature": 1e-40, "max_tokens": 3},
        {"model": "tiny", "prompt": "x", "mixture": {"t0": 1e300}},
        {"model": "tiny", "prompt": "", "max_tokens": 3},
        {"model": "nobody", "prompt": "x"},
    ]
    with ThreadPoolExecutor(6) as pool:
        good = [pool.submit(ask, client, f"{i} + 1 =") for i in range(3)]
        statuses = list(pool.map(lambda b: httpx.post(f"{address}/completions", json=b).status_code, bad))
        assert statuses == [400, 200, 400, 400, 404]
        assert all(answer.result().choices[0].finish_reason for answer in good)


def test_the_bundle_with_its_router_still_verifies(bundle):
    assert "router/router.safetensors" in Bundle.open(bundle).manifest.files


def test_metrics_say_how_mixtures_were_computed_and_what_caches_saved(address, client):
    def counters():
        text = httpx.get(address.removesuffix("/v1") + "/metrics").text
        samples = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples[sample.name, *sample.labels.values()] = sample.value
        return samples

    before = counters()
    prompt = "count the words of this sentence that is longer than one block of the prefix cache"
    for _ in range(2):
        ask(client, prompt, "tiny:t1")
        ask(client, "3 + 4 =")
    after = counters()

    def rise(*key):
        return after.get(key, 0) - before.get(key, 0)

    assert rise("twinserve_passes_total", "factored") + rise("twinserve_passes_total", "composed") > 0
    assert rise("twinserve_prefix_tokens_total", "hit") >= 64
    assert rise("twinserve_router_prompts_total", "hit") >= 1
    assert 0 < rise("twinserve_generated_tokens_total") <= 64
    assert after["twinserve_requests_running",] == 0
