"""Many clients at once against a served tiny bundle, for minutes: is any answer wrong, does anything leak?

    python -m benchmarks.soak --minutes 10 --clients 200

Trains a tiny zoo with real skills (half a minute), builds and serves it by ``twinserve serve`` in a process
of its own, asks whole and streamed answers of every arm, hangs up on a quarter of them, and compares each
answer, also the beginning of one that was cut, with dense weights of the mixture that the response names.
Then everything must have come to rest: no slot taken, nothing waiting, and the server's counters must add up,
to each other and to what clients saw. Writes benchmarks/results/soak.json.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from benchmarks.soak.clients import clients
from benchmarks.soak.summary import summary
from benchmarks.soak.truth import Truth
from tests import trained

RESULT = Path("benchmarks/results/soak.json")
TWINSERVE = str(Path(sys.executable).with_name("twinserve"))
NAME = "soak"
REST = 30.0
MEASURE_EVERY = 1.0


def main(
    minutes: Annotated[float, typer.Option(help="How long clients ask.")] = 10.0,
    count: Annotated[int, typer.Option("--clients", help="At once.")] = 200,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Soak; exits 1 where something was wrong."""
    with tempfile.TemporaryDirectory() as folder:
        zoo = trained.make(Path(folder) / "zoo")
        facts = soak(zoo, Path(folder), count, 60 * minutes)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(facts, indent=2) + "\n")
    Console(soft_wrap=True).print_json(data=facts)
    if facts["problems"]:
        raise typer.Exit(1)


def soak(zoo: Any, folder: Path, count: int, seconds: float) -> dict[str, Any]:
    """Figures and problems of ``count`` clients in ``seconds``. zoo: a ``TrainedZoo``; folder: for the
    bundle made of it."""
    bundle, prompts = build(zoo, folder)
    truth = Truth(bundle)
    with served(bundle) as (url, process):
        sizes: list[float] = []
        done = threading.Event()
        watch = threading.Thread(target=_measure, args=(process, sizes, done))
        watch.start()
        tally = asyncio.run(clients(url, {1: truth}, prompts, count, seconds, NAME))
        at_rest = rest(url)
        done.set()
        watch.join()
        counted = metrics(url)
    return summary(tally, at_rest, counted, sizes) | {"minutes": seconds / 60, "clients": count}


def build(zoo: Any, folder: Path) -> tuple[Path, list[tuple[str, str]]]:
    """A bundle with a router, and (task, prompt) of every test prompt."""
    recipe = {
        "base": str(zoo.base),
        "experts": [{"task": task, "checkpoint": str(path)} for task, path in zoo.finetunes.items()],
        "shared": {"method": "task_arithmetic", "scaling": 0.3},
        "exclusive": {"rank": 64, "reference": "pretrained"},
        "router": {"prompts": str(zoo.data / "router"), "features": ["tfidf"]},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    bundle = folder / NAME
    command = [TWINSERVE, "build", str(folder / "recipe.yaml"), "-o", str(bundle)]
    subprocess.run(command, check=True, capture_output=True)
    prompts = []
    for path in sorted((zoo.data / "test").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            prompts.append((path.stem, json.loads(line)["messages"][0]["content"]))
    return bundle, prompts


@contextmanager
def served(bundle: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """``twinserve serve`` in a process of its own, once it is ready; its address."""
    port = _free_port()
    command = [TWINSERVE, "serve", str(bundle), "--port", str(port), *options]
    with (bundle.parent / "serve.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 120
        while not _ready(url):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((bundle.parent / "serve.log").read_text())
            time.sleep(0.2)
        yield url, process
    finally:
        process.terminate()
        process.wait(60)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").is_success
    except httpx.TransportError:
        return False


def _measure(process: subprocess.Popen[bytes], sizes: list[float], done: threading.Event) -> None:
    """Resident megabytes of the server, every ``MEASURE_EVERY`` seconds."""
    while not done.wait(MEASURE_EVERY):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                sizes.append(int(line.split()[1]) / 1000)


def metrics(url: str) -> dict[str, float]:
    """Every sample of /metrics: name{label="value",…} -> value."""
    found = {}
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def rest(url: str) -> dict[str, float]:
    """Requests that run and wait when all clients have gone, after some patience."""
    until = time.monotonic() + REST
    while True:
        found = metrics(url)
        left = {key: found[key] for key in ("twinserve_requests_running", "twinserve_requests_waiting")}
        if not any(left.values()) or time.monotonic() > until:
            return left
        time.sleep(0.2)


if __name__ == "__main__":
    typer.run(main)
