"""twinserve experiment stop: end an experiment on a running endpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from serve.commands.options import AdminKey, Url


def stop(
    name: str,
    url: Url,
    reason: Annotated[str, typer.Option(help="Kept with the experiment.")] = "stopped",
    admin_key: AdminKey = None,
) -> None:
    """End an experiment for good; what was recorded of it stays.

    Example: twinserve experiment stop static-or-dynamic --url http://127.0.0.1:8000
    """
    from serve.experimentclient import ExperimentClient

    with ExperimentClient(url, admin_key) as client:
        state = client.stop(name, reason)
    typer.echo(f"{state['name']}: {state['state']}, version {state['version']}")
