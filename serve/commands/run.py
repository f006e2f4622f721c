"""twinserve serve: the endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from serve.commands.options import Device, Dtype, MaxModelLen, Slots, Threads, engine_settings


def serve(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    name: Annotated[str | None, typer.Option(help="Model id; default: the bundle's folder name.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    slots: Slots = None,
    max_model_len: MaxModelLen = None,
    threads: Threads = None,
) -> None:
    """Serve a bundle over HTTP, in OpenAI's format.

    Example: twinserve serve bundles/quickstart --port 8000
    """
    import uvicorn

    from serve.api.app import create_app
    from serve.engine import Engine

    settings = engine_settings(
        device=device, dtype=dtype, slots=slots, max_model_len=max_model_len, threads=threads
    )
    engine = Engine.open(bundle, settings, name=name)
    Console(stderr=True).print(
        f"serving {engine.name} with {', '.join(engine.tasks)} on http://{host}:{port}", highlight=False
    )
    try:
        uvicorn.run(create_app(engine), host=host, port=port, log_level="warning")
    finally:
        engine.stop()
