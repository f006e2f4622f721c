"""The engine benchmark's contenders compute what they are compared for."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoConfig

from benchmarks.engine import batches
from benchmarks.engine.ggufs import rotated
from benchmarks.engine.ours import Ours
from benchmarks.engine.peers.generate import Generate
from benchmarks.engine.peers.peft import Peft
from benchmarks.engine.peers.process import PeerError, Process
from benchmarks.engine.peers.reference import Reference
from benchmarks.engine.protocol import Progress, Request, refusal
from benchmarks.engine.workloads import GRID, KINDS, workload
from tests.bundles import Zoo, adapter_zoo
from tests.tiny import VOCABULARY

TASKS = [f"t{number}" for number in range(8)]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return adapter_zoo(tmp_path_factory.mktemp("zoo"), "llama")


def requests(*mixtures: dict[str, float]) -> list[Request]:
    """Different lengths, so that padding and waiting for the longest are in it."""
    ids = random.Random(0)
    return [
        Request([ids.randrange(4, VOCABULARY) for _ in range(5 + 3 * number)], 4 + number, mixture)
        for number, mixture in enumerate(mixtures)
    ]


def alone(zoo: Zoo, request: Request) -> list[int]:
    model = batches.never_ending(zoo.reference(request.mixture).float())
    (tokens,), _ = batches.generate(model, [request])
    return tokens


ONE_MODEL: tuple[dict[str, float], ...] = ({}, {}, {})
SOFT: tuple[dict[str, float], ...] = ({"t0": 0.5, "t2": 0.5}, {}, {"t1": 1.0})


@pytest.mark.parametrize(
    ("make", "mixtures"),
    [
        (lambda bundle: Generate(bundle, 3), ONE_MODEL),
        (lambda bundle: Peft(bundle, 2), ({"t2": 1.0}, {"t0": 1.0}, {"t2": 1.0})),
        (lambda bundle: Reference(bundle, 3), SOFT),
        (lambda bundle: Ours(bundle, 2, 1, 64), SOFT),
    ],
)
def test_contender_answers_as_the_asked_model_alone(
    zoo: Zoo, make: Any, mixtures: tuple[dict[str, float], ...]
) -> None:
    asked = requests(*mixtures)
    contender = make(zoo.bundle)
    try:
        result = contender.run(asked)
    finally:
        contender.close()
    assert result.outputs == [alone(zoo, request) for request in asked]
    assert result.tokens == 4 + 5 + 6 and len(result.first_token) == 3
    assert len(result.inter_token) == result.tokens - 3


def test_servers_of_adapters_refuse_mixtures(zoo: Zoo) -> None:
    contender = Peft(zoo.bundle, 2)
    assert refusal(contender, requests({}, {"t0": 1.0})) is None
    assert "no mixture" in (refusal(contender, requests({"t0": 0.5})) or "")


def test_a_peer_that_does_not_start_says_why(tmp_path: Path) -> None:
    options = {"threads": 1, "adapters": {}, "model": "none", "slots": 1, "max_len": 8, "compiled": False}

    def start(python: Path) -> Process:
        return Process("p", "one model", python, "benchmarks.engine.peers.nothing", options, tmp_path / "log")

    with pytest.raises(PeerError, match="cannot be run"):
        start(tmp_path / "no-python")
    with pytest.raises(PeerError, match="No module named"):
        start(Path(sys.executable))


def test_a_loading_error_crosses_the_pipe(tmp_path: Path) -> None:
    module = "benchmarks.engine.peers.llamacpp"
    with pytest.raises(PeerError, match=r"\w+Error: .* \(see"):
        Process("p", "one model", Path(sys.executable), module, {"threads": 1}, tmp_path / "log")


def test_missing_tokens_are_no_result_and_extra_ones_do_not_count() -> None:
    progress = Progress([Request([1], 2)])
    assert not progress.take(0, [5])
    with pytest.raises(RuntimeError, match="1 tokens instead of 2"):
        progress.result()
    assert progress.take(0, [6, 7])
    assert progress.result().outputs == [[5, 6]]


@pytest.mark.parametrize("kind", KINDS)
def test_mixtures_are_whole_and_on_the_grid(kind: Any) -> None:
    made = workload(TASKS, 100, kind=kind, requests=32)
    assert made == workload(TASKS, 100, kind=kind, requests=32)
    for request in made:
        assert all((weight * GRID).is_integer() for weight in request.mixture.values())
        assert sum(request.mixture.values()) == (1.0 if request.mixture else 0.0)


def test_rows_of_q_and_k_get_the_order_of_llama_cpp() -> None:
    config = AutoConfig.for_model("llama", num_attention_heads=2, num_key_value_heads=1)
    rows = np.arange(8, dtype=np.float32).reshape(8, 1)
    assert rotated("layers.0.self_attn.q_proj.weight", rows, config).ravel().tolist() == [
        0, 2, 1, 3, 4, 6, 5, 7
    ]  # fmt: skip
    assert rotated("layers.0.self_attn.v_proj.weight", rows, config) is rows
