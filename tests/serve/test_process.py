"""twinserve serve as a process: killed, restarted, told to end. Real signals, a real engine, tiny models."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from serve.settings import EngineSettings
from tests.bundles import adapter_zoo
from tests.growing import hashes
from tests.serve.packed import COSTS

MAIN = "from serve.cli import main; main()"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapter_zoo(tmp_path_factory.mktemp("process"), "llama").bundle.path


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def serve(bundle: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TWINSERVE_SLOTS": "4"}
    environment["TWINSERVE_COSTS"] = EngineSettings(costs=COSTS).model_dump_json(include={"costs"})[9:-1]
    command = [sys.executable, "-c", MAIN, "serve", str(bundle), "--port", str(port), "--threads", "1"]
    with subprocess.Popen(command, env=environment, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def statuses(port: int, process: subprocess.Popen[bytes]) -> set[tuple[int, int]]:
    """(/health, /ready) as they were from the first answer until it was ready."""
    seen: set[tuple[int, int]] = set()
    end = time.monotonic() + 90
    while (200, 200) not in seen:
        assert time.monotonic() < end and process.poll() is None
        try:
            root = f"http://127.0.0.1:{port}"
            seen.add((httpx.get(f"{root}/health").status_code, httpx.get(f"{root}/ready").status_code))
        except httpx.TransportError:
            time.sleep(0.05)
    return seen


def ask(client: openai.OpenAI, prompt: str) -> Any:
    return client.completions.create(
        model="bundle:t0", prompt=prompt, max_tokens=40, temperature=0, n=8, extra_body={"ignore_eos": True}
    )


def test_a_killed_server_comes_back_without_its_clients_noticing_and_then_drains(
    bundle: Path, port: int
) -> None:
    before = hashes(bundle)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=12, timeout=60)
    with ThreadPoolExecutor(4) as pool, client:
        with serve(bundle, port) as process:
            # The port answers before the bundle is there: that is what a balancer goes by.
            assert (200, 503) in statuses(port, process)
            expected = ask(client, "one two").choices[0].text
            asked = [pool.submit(ask, client, "one two") for _ in range(12)]
            time.sleep(0.2)
            process.kill()
            assert process.wait(10) == -signal.SIGKILL
        assert not all(one.done() for one in asked), "it was killed too late for this test"
        with serve(bundle, port) as process:
            for one in asked:
                assert {choice.text for choice in one.result().choices} == {expected}
            assert hashes(bundle) == before
            last = pool.submit(ask, client.with_options(max_retries=0), "three")
            running = f"http://127.0.0.1:{port}/metrics"
            while "twinserve_requests_running 0.0" in httpx.get(running).text and not last.done():
                time.sleep(0.005)
            process.send_signal(signal.SIGTERM)
            assert len(last.result().choices) == 8
            assert process.wait(10) == 0


def test_a_second_signal_ends_it_at_once(bundle: Path, port: int, long: bool) -> None:
    if not long:
        pytest.skip("a third process takes seconds to start")
    body = {"model": "bundle:t0", "prompt": "one", "max_tokens": 200, "n": 128, "ignore_eos": True}
    with serve(bundle, port) as process, ThreadPoolExecutor(1) as pool:
        statuses(port, process)
        asked = pool.submit(httpx.post, f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=60)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None and not asked.done()
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == -signal.SIGINT
        with pytest.raises(httpx.TransportError):
            asked.result()


def test_a_signal_while_the_first_bundle_loads_ends_it_in_peace(bundle: Path, port: int, long: bool) -> None:
    if not long:
        pytest.skip("a fourth process takes seconds to start")
    with serve(bundle, port) as process:
        while True:
            assert process.poll() is None
            try:
                if httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 503:
                    break
            except httpx.TransportError:
                time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
