"""twinserve generate and route: answers and scores without a server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from serve.commands.options import Device, Threads, engine_settings
from serve.commands.progress import bars

# Prompts scored at a time: bounds memory, and lets answers and progress come while it runs.
BATCH = 256


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
        (answer,) = engine.generate([GenerationRequest(ids, params, target, (prompt,))])
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

    A line is a prompt, or an object {"prompt": …} or {"messages": […]}.

    Example: twinserve route bundles/quickstart < prompts.txt
    """
    from dataclasses import asdict

    from serve.engine import Engine

    # Read before a model is loaded: a bad line should not cost a minute.
    asked = [_line(number, line) for number, line in enumerate(sys.stdin, start=1) if line.strip()]
    engine = Engine.open(bundle, engine_settings(device=device, threads=threads))
    try:
        with bars() as shown:
            for start in range(0, len(asked), BATCH):
                batch = asked[start : start + BATCH]
                routes = engine.route_now([turns for _, turns in batch])
                for (given, _), found in zip(batch, routes, strict=True):
                    line = json.dumps({**given, **asdict(found)}, ensure_ascii=False)
                    sys.stdout.write(line + "\n")
                if len(asked) > BATCH:
                    shown.report("routing", min(start + BATCH, len(asked)), len(asked))
    finally:
        engine.stop()


def _line(number: int, line: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What a line asks, to be told with its answer, and the user's turns in it."""
    from compress.errors import InputError
    from router import user_turns
    from router.jsonl import prompt_of

    text = line.rstrip("\n")
    given: dict[str, Any] = {"prompt": text}
    if text.lstrip().startswith("{"):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None  # a prompt that begins with a brace
        if isinstance(content, dict) and {"prompt", "messages"} & set(content):
            given = content
    try:
        prompt = prompt_of({key: given[key] for key in ("prompt", "messages") if key in given})
        return given, user_turns(prompt)
    except InputError as error:
        raise InputError(f"line {number}: {error}") from error
