"""twinserve serve: the endpoint."""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from serve.commands.options import Device, Dtype, MaxModelLen, Slots, Threads

log = logging.getLogger(__name__)


def serve(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    config: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="Settings; docs/settings.md has them all.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on; default: 8000.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Model id; default: the bundle's folder name.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    slots: Slots = None,
    max_model_len: MaxModelLen = None,
    threads: Threads = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print all settings as they would be, and end.")
    ] = False,
) -> None:
    """Serve a bundle over HTTP, in OpenAI's format.

    Example: twinserve serve bundles/quickstart --port 8000
    """
    import uvicorn

    from compress.bundle import read_manifest
    from serve.api.app import create_app
    from serve.experimentstorage import open_storage
    from serve.live import Live
    from serve.logs import configure
    from serve.opener import opener
    from serve.server import Server
    from serve.serversettings import OptionError, as_yaml, read_settings
    from serve.threads import working

    options = {
        "host": host, "port": port, "name": name, "device": device, "dtype": dtype, "slots": slots,
        "max_model_len": max_model_len, "threads": threads,
    }  # fmt: skip
    try:
        given = {key: value for key, value in options.items() if value is not None}
        settings = read_settings(config, **given)
    except OptionError as error:
        raise typer.BadParameter(str(error)) from error
    if print_config:
        sys.stdout.write(as_yaml(settings))
        return
    configure(settings.log)
    read_manifest(bundle)  # before a port is opened for nothing
    model = settings.name or bundle.resolve().name
    live = Live(model, opener(settings, model))
    storage = open_storage(settings)
    app = create_app(live, settings, storage)
    if app.state.keys.open and not _only_here(settings.host):
        log.warning(
            "everybody who reaches %s may ask; set security.keys_file or security.api_key", settings.host
        )

    def loaded() -> None:
        told = f"serving {model} with {', '.join(live.tasks)} on http://{settings.host}:{settings.port}"
        if settings.log.format == "json":
            log.info(told)
        else:
            Console(stderr=True).print(told, highlight=False)

    listening = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        # Its own lines for requests know neither model nor tokens; ours do.
        log_config=None,
        access_log=False,
        server_header=False,
        # Longer than balancers keep an idle connection, or one would send a request into one just closed.
        timeout_keep_alive=75,
    )
    server = Server(listening, live, bundle, settings.drain_timeout, loaded)
    try:
        server.run()
    finally:
        if storage is not None:
            storage.close()
    if server.failure is not None:
        raise server.failure
    if working():
        # A load that nobody waits for any more is in native code, which does not survive the interpreter's
        # own end.
        os._exit(0)


def _only_here(host: str) -> bool:
    """Whether only programs of this machine reach that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
