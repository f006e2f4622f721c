"""Answers from Python, without a server: one bundle, three ways to choose the weights, and a stream.

    python examples/without_http.py bundles/quickstart
    python examples/without_http.py BUNDLE --prompt TEXT --task TASK

Prints the answers of the router's choice, of the static merge and of a mixture of our own (half of TASK over
the shared base), each with the mixture and who chose it; then the first answer once more, piece by piece.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from serve.engine import Engine
from serve.prompts import chat_ids
from serve.request import GenerationRequest, SamplingParams, Target
from serve.settings import EngineSettings

PROMPT = "What is the sentiment of this text? Answer with one word.\nA joy from start to finish."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--task", help="of the mixture of our own; default: the bundle's first")
    options = parser.parse_args()

    engine = Engine.open(options.bundle, EngineSettings())
    try:
        task = options.task or engine.tasks[0]
        targets = [Target("dynamic"), Target("static"), Target("mixture", mixture={task: 0.5})]
        asked = [request(engine, options.prompt, target) for target in targets]
        # All three in one batch, each under its own weights.
        for target, answer in zip(targets, engine.generate(asked), strict=True):
            routing = answer.routing
            sure = "" if routing.confidence is None else f", confidence {routing.confidence:.2f}"
            mixture = routing.mixture or "the shared base"
            print(f"{target.kind}: {answer.text!r} by {mixture} ({routing.source}{sure})")
        print("streamed: ", end="", flush=True)
        asyncio.run(stream(engine, asked[0]))
    finally:
        engine.stop()


def request(engine: Engine, prompt: str, target: Target) -> GenerationRequest:
    """A chat of one turn. The router reads ``turns``: the user's own words, without the template."""
    ids = chat_ids(engine.tokenizer, [{"role": "user", "content": prompt}])
    return GenerationRequest(ids, SamplingParams(max_tokens=24, temperature=0.0), target, turns=(prompt,))


async def stream(engine: Engine, asked: GenerationRequest) -> None:
    """Print an answer as it comes."""
    async for event in engine.stream(asked):
        print(event.text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
