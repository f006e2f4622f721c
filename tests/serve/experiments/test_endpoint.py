"""An experiment on a real engine behind a real server, asked by the openai client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
import yaml

from serve.engine import Engine
from serve.experimentsettings import Experiments
from serve.serversettings import ServerSettings
from serve.settings import EngineSettings
from tests.bundles import adapter_zoo
from tests.serve.packed import COSTS
from tests.serve.routed import WORDS, add_router
from tests.serve.server import serving

ARMS = [
    {"name": "merged", "model": "static", "share": 0.4},
    {"name": "routed", "share": 0.3},
    # No prompt is so certain: this policy sends all of them to the shared base.
    {"name": "strict", "policy": {"threshold": 1.0, "certain": 1.0}, "share": 0.3},
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("experiment")
    path = adapter_zoo(folder, "llama").bundle.path
    add_router(path, features="embedding")
    file = folder / "experiments.yaml"
    metrics = [{"name": "correct", "kind": "binary"}]
    file.write_text(yaml.safe_dump({"name": "policies", "arms": ARMS, "metrics": metrics}))
    settings = ServerSettings.model_construct(experiments=Experiments(file=file))
    engine = Engine.open(path, EngineSettings(slots=4, threads=1, costs=COSTS), name="tiny")
    try:
        with serving(engine, settings) as url:
            yield url
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
