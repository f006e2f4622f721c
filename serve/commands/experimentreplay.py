"""twinserve experiment replay: an experiment on labelled prompts, without traffic."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from serve.commands.experimentreport import HtmlFile, JsonFile, deliver
from serve.commands.options import Device, Threads, engine_settings
from serve.commands.progress import bars


def replay(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Held-out prompts: DIR/<task>.jsonl.")],
    arms: Annotated[
        str, typer.Option(metavar="NAMES", help="dynamic, static or tasks; the first is the control.")
    ] = "static,dynamic",
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts a task at most.")] = None,
    latency_guardrail: Annotated[
        float | None,
        typer.Option(min=0, metavar="SHARE", help="Relative worsening to bear: 0.2 for a fifth."),
    ] = None,
    json_file: JsonFile = None,
    html: HtmlFile = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Let every arm answer the same prompts, one request at a time, and compare them prompt by prompt.

    Example: twinserve experiment replay bundles/quickstart --data examples/zoo/data/test --limit 20
    """
    from serve.engine import Engine
    from serve.evaluate import read_data
    from serve.experiments.statistics import replay as replaying
    from serve.experiments.statistics.paired import paired_report

    engine = Engine.open(bundle, engine_settings(device=device, threads=threads))
    try:
        chosen = replaying.targets([name.strip() for name in arms.split(",") if name.strip()], engine.tasks)
        prompts = read_data(data, engine.tasks, limit)
        count = len(chosen) * sum(len(items) for items in prompts.values())
        with bars() as shown:
            found = replaying.replay(engine, prompts, chosen, shown.stage("answers", count))
    finally:
        engine.stop()
    models = {name: target.task or target.kind for name, target in chosen.items()}
    made = paired_report(bundle.name, found, models, now=time.time(), guardrail=latency_guardrail)
    deliver(made, json_file, html)
