"""twinserve generate and route: answers and scores without a server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from serve.commands.options import Device, Threads, engine_settings


def generate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    prompt: Annotated[str, typer.Argument(help="The user's words.")],
    model: Annotated[str, typer.Option(help="dynamic, static or a task's name.")] = "dynamic",
    max_tokens: Annotated[int, typer.Option(min=1)] = 64,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.0,
    seed: Annotated[int | None, typer.Option(help="For a temperature above 0.")] = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Answer one prompt and show how it was routed.

    Example: twinserve generate bundles/quickstart "What is the sentiment of this text? A joy."
    """
    from compress.errors import InputError
    from serve.engine import Engine
    from serve.prompts import chat_ids
    from serve.request import GenerationRequest, SamplingParams, Target

    if not prompt.strip():
        raise InputError("the prompt is empty; give at least one word")
    target = Target(model) if model in ("dynamic", "static") else Target("task", task=model)  # type: ignore[arg-type]
    engine = Engine.open(bundle, engine_settings(device=device, threads=threads))
    try:
        ids = chat_ids(engine.tokenizer, [{"role": "user", "content": prompt}])
        params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
        (answer,) = engine.generate([GenerationRequest(ids, params, target, prompt)])
    finally:
        engine.stop()
    routing = answer.routing
    mixture = ", ".join(f"{task} {weight:g}" for task, weight in routing.mixture.items()) or "shared base"
    confidence = "" if routing.confidence is None else f", confidence {routing.confidence:.2f}"
    Console(stderr=True).print(f"[dim]{mixture} (by {routing.source}{confidence})[/]", highlight=False)
    sys.stdout.write(answer.text + "\n")


def route(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Score prompts from standard input, one a line; prints one JSON object a line.

    Example: twinserve route bundles/quickstart < prompts.txt
    """
    from dataclasses import asdict

    from serve.engine import Engine

    texts = [line.rstrip("\n") for line in sys.stdin if line.strip()]
    engine = Engine.open(bundle, engine_settings(device=device, threads=threads))
    try:
        for text, result in zip(texts, engine.route_now(texts), strict=True):
            sys.stdout.write(json.dumps({"prompt": text, **asdict(result)}, ensure_ascii=False) + "\n")
    finally:
        engine.stop()
