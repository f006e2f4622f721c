"""twinserve experiment start: begin the experiments of a file on a running endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serve.commands.options import AdminKey, Url


def start(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml")],
    url: Url,
    reason: Annotated[str, typer.Option(help="Kept with the experiment.")] = "started",
    admin_key: AdminKey = None,
) -> None:
    """Begin the experiments of a file on the endpoint at a URL, one after the other.

    The first that is refused ends the command; those before it run.

    Example: twinserve experiment start configs/experiment.yaml --url http://127.0.0.1:8000
    """
    from serve.experimentclient import ExperimentClient
    from serve.experiments.definitions import read_experiments

    experiments = read_experiments(file)
    with ExperimentClient(url, admin_key) as client:
        for experiment in experiments:
            state = client.start(experiment, reason)
            typer.echo(f"{state['name']}: {state['state']}, version {state['version']}")
