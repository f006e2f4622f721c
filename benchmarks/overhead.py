"""What the HTTP server costs: 16 streams through it against the engine called directly, in turns.

    python -m benchmarks.overhead BUNDLE

One engine; its server runs in the same process, as in production, and the clients in another one, which do
as little as they can: what they compute is taken from the server where both have the same cores. Both ways
answer the same prompts of all tasks, each by its own expert, with as many tokens each. Writes
benchmarks/results/overhead.json.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import uvicorn
from rich.console import Console

from serve.api.app import create_app
from serve.commands.options import engine_settings
from serve.engine import Engine
from serve.evaluate import Item, read_data
from serve.prompts import file_ids
from serve.request import GenerationRequest, SamplingParams, Target

DATA = Path("examples/zoo/data/test")
RESULT = Path("benchmarks/results/overhead.json")
CLIENTS = "clients"


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    streams: Annotated[int, typer.Option(help="At once.")] = 16,
    tokens: Annotated[int, typer.Option(help="Of each answer.")] = 64,
    rounds: Annotated[int, typer.Option(help="Of each way, one right after the other.")] = 16,
    threads: Annotated[int | None, typer.Option(help="Of torch.")] = None,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Measure tokens a second both ways."""
    settings = engine_settings(device="cpu", threads=threads, slots=streams, prefix_memory=0)
    engine = Engine.open(bundle, settings, name="twin")
    items = read_data(DATA, engine.tasks, -(-streams // len(engine.tasks)))
    asked = [(task, item) for task, some in items.items() for item in some][:streams]
    requests = [_request(engine, task, item, tokens) for task, item in asked]
    bodies = [_body(task, item, tokens) for task, item in asked]
    rates: dict[str, list[float]] = {"engine": [], "server": []}
    try:
        with served(engine) as port, asking(port, bodies) as through:
            ways = {"engine": lambda: _directly(engine, requests), "server": through}
            for turn in range(rounds + 1):
                # Which comes first changes, or a machine that slows down would speak against one of them.
                for way in list(ways)[:: 1 if turn % 2 else -1]:
                    rates[way].append(ways[way]())
    finally:
        engine.stop()
    # The first round of each warms up.
    medians = {way: statistics.median(found[1:]) for way, found in rates.items()}
    facts = {
        "streams": streams,
        "tokens each": tokens,
        "tokens a second": medians,
        "server of engine": _ratio(rates["server"][1:], rates["engine"][1:]),
        "rounds": {way: found[1:] for way, found in rates.items()},
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(facts, indent=2) + "\n")
    Console().print_json(data=facts)


def _ratio(server: Sequence[float], engine: Sequence[float]) -> dict[str, float]:
    """The median ratio of two neighbouring rounds, with its 95 % bootstrap interval over pairs."""
    ratios = np.divide(server, engine)
    drawn = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def _directly(engine: Engine, requests: Sequence[GenerationRequest]) -> float:
    """Tokens a second of the engine alone."""
    started = time.perf_counter()
    answers = engine.generate(requests)
    return sum(len(answer.token_ids) for answer in answers) / (time.perf_counter() - started)


def _request(engine: Engine, task: str, item: Item, tokens: int) -> GenerationRequest:
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    return GenerationRequest(file_ids(engine.tokenizer, item.messages), params, Target("task", task=task))


def _body(task: str, item: Item, tokens: int) -> dict[str, Any]:
    return {
        "model": f"twin:{task}",
        "messages": item.messages,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@contextmanager
def served(engine: Engine) -> Iterator[int]:
    """The endpoint on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(engine), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [free]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield free.getsockname()[1]
        server.should_exit = True
        thread.join()


@contextmanager
def asking(port: int, bodies: list[dict[str, Any]]) -> Iterator[Callable[[], float]]:
    """Clients in a process of their own, which tell tokens a second each time they are called."""
    command = [sys.executable, "-m", "benchmarks.overhead", CLIENTS, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        told, heard = process.stdin, process.stdout

        def ask() -> float:
            print(json.dumps(bodies), file=told, flush=True)
            return float(heard.readline())

        yield ask
        told.close()


async def clients(port: int, bodies: list[dict[str, Any]]) -> float:
    """Tokens a second of all streams together, from the first byte sent to the last one read."""

    async def one(body: dict[str, Any]) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        content = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: here\r\ncontent-length: {len(content)}\r\n"
        writer.write(f"{head}content-type: application/json\r\nconnection: close\r\n\r\n".encode() + content)
        text = (await reader.read(-1)).decode()
        writer.close()
        [told] = re.findall(r'"completion_tokens":(\d+)', text)
        return int(told)

    started = time.perf_counter()
    tokens = sum(await asyncio.gather(*map(one, bodies)))
    return tokens / (time.perf_counter() - started)


if __name__ == "__main__":
    if sys.argv[1:2] == [CLIENTS]:
        for line in sys.stdin:
            print(asyncio.run(clients(int(sys.argv[2]), json.loads(line))), flush=True)
    else:
        typer.run(main)
