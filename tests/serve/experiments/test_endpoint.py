"""An experiment on a real engine behind a real server, asked by the openai client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from serve.api.app import create_app
from serve.engine import Engine
from serve.experiments.definitions import parsed
from serve.experiments.keeping import Storage
from serve.experiments.memory import Memory
from serve.experiments.statistics.shadows import paired
from serve.experimentsettings import Experiments
from serve.serversettings import ServerSettings
from serve.settings import EngineSettings
from tests.bundles import adapter_zoo
from tests.serve.packed import COSTS
from tests.serve.routed import WORDS, add_router
from tests.serve.server import serving_app

ARMS = [
    {"name": "merged", "model": "static", "share": 0.4},
    {"name": "routed", "share": 0.3},
    # No prompt is so certain: this policy sends all of them to the shared base.
    {"name": "strict", "policy": {"threshold": 1.0, "certain": 1.0}, "share": 0.3},
]


SHADOWED = {
    "name": "shadow",
    "arms": [{"name": "merged", "model": "static", "share": 1}, {"name": "routed", "share": 0}],
    "metrics": [{"name": "latency", "direction": "lower"}],
    "shadow": {"arm": "routed", "most": 100},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a bundle, and of what is said of it."""
    made: Path = tmp_path_factory.mktemp("experiment")
    add_router(adapter_zoo(made, "llama").bundle.path, features="embedding")
    return made


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    metrics = [{"name": "correct", "kind": "binary"}]
    with endpoint(folder, {"name": "policies", "arms": ARMS, "metrics": metrics}) as (url, _):
        yield url


@contextmanager
def endpoint(
    folder: Path, declared: dict[str, Any], storage: Storage | None = None
) -> Iterator[tuple[str, Engine]]:
    """A server whose address ends in /v1, with one experiment."""
    file = folder / f"{declared['name']}.yaml"
    file.write_text(yaml.safe_dump(declared))
    settings = ServerSettings.model_construct(experiments=Experiments(file=file))
    (path,) = [path.parent for path in folder.rglob("bundle.json")]
    engine = Engine.open(path, EngineSettings(slots=4, threads=1, costs=COSTS), name="tiny")
    try:
        with serving_app(create_app(engine, settings, storage)) as origin:
            yield f"{origin}/v1", engine
    finally:
        engine.stop()


def test_arms_answer_by_their_own_weights_and_policy_and_take_feedback(address):
    prompt, found = WORDS["t0"].format(77, 5), {}
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60) as client:
        plain = {
            model: client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=8
            ).choices[0]
            for model in ("tiny:dynamic", "tiny:static")
        }
        for user in range(24):
            raw = client.chat.completions.with_raw_response.create(
                model="tiny", messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=8,
                user=f"user-{user}",
            )  # fmt: skip
            assert raw.headers["x-twinserve-experiment"] == "policies/1"
            answer = raw.parse()
            choice, arm = answer.choices[0], raw.headers["x-twinserve-arm"]
            assert choice.routing["arm"] == arm
            like = plain["tiny:dynamic" if arm == "routed" else "tiny:static"]
            assert choice.message.content == like.message.content
            assert choice.routing["mixture"] == ({"t0": 1.0} if arm == "routed" else {})
            source, confidence = (
                ("static", None) if arm == "merged" else ("router", choice.routing["confidence"])
            )
            assert (choice.routing["source"], choice.routing["confidence"]) == (source, confidence)
            found.setdefault(arm, []).append(answer.id)
    assert set(found) == {"merged", "routed", "strict"}
    assert plain["tiny:dynamic"].message.content != plain["tiny:static"].message.content
    for arm, responses in found.items():
        body = {"response_id": responses[0], "metrics": {"correct": arm == "routed"}}
        assert httpx.post(f"{address}/feedback", json=body).status_code == 200
    told = httpx.get(f"{address}/experiments/policies").json()
    assert {one["name"]: one["responses"] for one in told["arms"]} == {
        arm: len(responses) for arm, responses in found.items()
    }
    metrics = httpx.get(address.removesuffix("/v1") + "/metrics").text
    finished = (
        f'requests_total{{arm="routed",experiment="policies",outcome="finished"}} {len(found["routed"])}.0'
    )
    assert finished in metrics
    assert f'twinserve_requests_total{{arm="strict",outcome="length"}} {len(found["strict"])}.0' in metrics


def test_a_shadow_says_what_its_arm_says_and_nobody_counts_it(folder):
    memory = Memory()
    prompts = [WORDS["t0"].format(i, 5) for i in range(12)]
    with (
        endpoint(folder, SHADOWED, memory) as (url, engine),
        openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client,
    ):

        def said(model: str, prompt: str) -> str:
            answer = client.completions.create(
                model=model, prompt=prompt, temperature=0, max_tokens=8, user="ann"
            )
            return answer.choices[0].text

        seen = [said("tiny", prompt) for prompt in prompts]
        until = time.monotonic() + 30
        while len(list(memory.served("shadow"))) < 24:
            assert time.monotonic() < until
            time.sleep(0.02)
        metrics = httpx.get(url.removesuffix("/v1") + "/metrics").text
        pairs = paired(parsed(SHADOWED), memory.served("shadow"))
        assert [front.text for front, _ in pairs] == seen
        assert seen == [said("tiny:static", prompt) for prompt in prompts]
        assert [behind.text for _, behind in pairs] == [said("tiny:dynamic", p) for p in prompts]
    for front, behind in pairs:
        assert behind.metrics["agreement"] == (front.text == behind.text)
        assert behind.metrics["latency"] > 0 and behind.task == "t0"
    assert "twinserve_requests_received_total 12.0" in metrics and engine.steps.idle
    assert 'twinserve_experiment_shadows_total{experiment="shadow",outcome="finished"} 12.0' in metrics
