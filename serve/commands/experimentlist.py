"""twinserve experiment list: the experiments of a running endpoint, and how many took part."""

from __future__ import annotations

import os

from rich.console import Console
from rich.table import Table

from serve.commands.options import Url


def list_experiments(url: Url) -> None:
    """Show the experiments of the endpoint at a URL (its key: TWINSERVE_API_KEY).

    Units and responses are those of the endpoint's process since it began to serve this version; p is that of
    the sample ratio, below 0.001 an alarm.

    Example: twinserve experiment list --url http://127.0.0.1:8000
    """
    from serve.experimentclient import ExperimentClient

    with ExperimentClient(url, os.environ.get("TWINSERVE_API_KEY")) as client:
        found = client.all()
    table = Table()
    for column in ("experiment", "version", "state", "arm", "model", "share", "units", "responses", "p"):
        right = column in ("version", "share", "units", "responses", "p")
        table.add_column(column, justify="right" if right else "left")
    for one in found:
        shown, p_value = [one["name"], str(one["version"]), one["state"]], one["srm"]["p_value"]
        ratio = "" if p_value is None else f"{p_value:.3g}"
        for arm in one["arms"]:
            counts = [f"{arm['share']:.2%}", str(arm["units"]), str(arm["responses"])]
            table.add_row(*shown, arm["name"], arm["model"], *counts, ratio)
            shown, ratio = [""] * 3, ""
    console = Console()
    console.print(table)
    for one in found:
        if one["canary"] is not None:
            console.print(f"{one['name']}, {one['canary']}", highlight=False, markup=False)
