"""From checkpoints to answers: build a bundle, evaluate a small sample, serve it, ask it.

Run by ``make quickstart``; everything it does is a command or a request that you could type.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from compress.bundle import read_manifest
from compress.errors import InputError
from compress.recipe import read_recipe

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "configs" / "quickstart.yaml"
DATA = ROOT / "examples" / "zoo" / "data"
BUNDLE = ROOT / "bundles" / "quickstart"
TWINSERVE = Path(sys.executable).with_name("twinserve")
NO_TASK = "Which planet is closest to the sun?"
console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-serve", action="store_true", help="end when everything has been shown")
    parser.add_argument("--limit", type=int, default=8, help="prompts a task in the evaluation")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free port")
    options = parser.parse_args()
    started = time.monotonic()

    if up_to_date():
        console.rule("1. The bundle is there already")
        twinserve("inspect", BUNDLE)
    else:
        console.rule("1. Build a bundle from five adapters (half a minute more on the first run)")
        twinserve("build", RECIPE, "-o", BUNDLE)
    console.rule("2. Evaluate a small sample")
    twinserve("eval", BUNDLE, "--data", DATA / "test", "--limit", options.limit)
    console.rule("3. Serve it and ask")
    with server(options.port) as (process, url):
        console.print(table_of_answers(url))
        console.print(f"quickstart took {time.monotonic() - started:.0f} s", highlight=False)
        if options.no_serve:
            return
        print(f"\nThe server keeps running; Ctrl-C ends it. Try:\n\n{curl_line(url)}\n", flush=True)
        process.wait()


def up_to_date() -> bool:
    """Whether the bundle was built from the recipe as it is now."""
    try:
        return read_manifest(BUNDLE).recipe == read_recipe(RECIPE).model_dump()
    except InputError:
        return False


def twinserve(*arguments: object) -> None:
    """Run a command as a user would, showing it first."""
    words = [str(a.relative_to(ROOT)) if isinstance(a, Path) else str(a) for a in arguments]
    console.print(f"[bold]$ twinserve {' '.join(words)}[/]", highlight=False)
    done = subprocess.run([TWINSERVE, *words], cwd=ROOT, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)


@contextmanager
def server(port: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """``twinserve serve`` in a process of its own, ready; ended when the block ends."""
    port = port if port and is_free(port) else any_free_port()
    words = ["serve", str(BUNDLE.relative_to(ROOT)), "--port", str(port)]
    console.print(f"[bold]$ twinserve {' '.join(words)}[/]", highlight=False)
    # A line for each request would tear the tables apart.
    quiet = {"TWINSERVE_LOG": "WARNING", **os.environ}
    process = subprocess.Popen([TWINSERVE, *words], cwd=ROOT, env=quiet)
    url = f"http://127.0.0.1:{port}"
    try:
        while not is_ready(url):
            if process.poll() is not None:
                sys.exit("the server ended before it was ready")
            time.sleep(0.2)
        yield process, url
    except KeyboardInterrupt:
        pass
    finally:
        process.terminate()
        process.wait()


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def any_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def table_of_answers(url: str) -> Table:
    """One prompt of each task and one of no task, answered by the static and the dynamic model."""
    table = Table(show_lines=True)
    for column in ("prompt", "routed mixture", "static answer", "dynamic answer", "expected"):
        table.add_column(column, overflow="fold")
    for prompt, expected in prompts():
        static, dynamic = ask(url, "quickstart:static", prompt), ask(url, "quickstart", prompt)
        routing = dynamic["routing"]
        parts = [f"{task} {weight:g}" for task, weight in routing["mixture"].items() if task != "base"]
        mixture = ", ".join(parts) or ("no expert: " + ("base" if routing["mixture"] else "shared base"))
        answers = [choice["message"]["content"].strip() for choice in (static, dynamic)]
        table.add_row(shorten(prompt, 100, placeholder=" …"), mixture, *answers, expected)
    return table


def prompts() -> Iterator[tuple[str, str]]:
    for task in read_manifest(BUNDLE).tasks:
        first = json.loads((DATA / "test" / f"{task}.jsonl").read_text().splitlines()[0])
        yield first["prompt"], first["answer"]
    yield NO_TASK, "(no expert's task)"


def ask(url: str, model: str, prompt: str) -> dict[str, Any]:
    """The first choice of a chat completion; ``routing`` in it says which experts answered."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 24,
        "temperature": 0,
    }
    response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
    response.raise_for_status()
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


def curl_line(url: str) -> str:
    content = "What is the sentiment of this text? Answer with one word.\\nA joy from start to finish."
    body = f'{{"model": "quickstart", "messages": [{{"role": "user", "content": "{content}"}}]}}'
    return f"curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"


if __name__ == "__main__":
    main()
