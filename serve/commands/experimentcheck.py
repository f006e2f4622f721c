"""twinserve experiment check: a file of experiments, before anybody is asked to run it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml")],
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="Also check that it answers every arm but those of others."),
    ] = None,
) -> None:
    """Check a file of experiments, all of them as if they began on one endpoint, and show arms and canaries.

    Example: twinserve experiment check configs/experiment.yaml --bundle bundles/zoo
    """
    from compress.bundle import digest_of, read_manifest
    from compress.errors import InputError
    from serve.experiments.board import Board
    from serve.experiments.canary import plan
    from serve.experiments.definitions import check as check_arms
    from serve.experiments.definitions import read_experiments
    from serve.experiments.loaded import Loaded

    experiments = read_experiments(file)
    try:
        board = Board(declared=experiments)
        if bundle is not None:
            manifest = read_manifest(bundle)
            routes = any(name.startswith("router/") for name in manifest.files)
            there = Loaded(digest=digest_of(bundle), tasks=manifest.tasks, routes=routes)
            for experiment in experiments:
                own = [arm for arm in experiment.arms if arm.digest in (None, there.digest)]
                named = [arm for arm in own if arm.generation is None]
                check_arms(experiment.model_copy(update={"arms": tuple(named)}), [there])
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    table = Table(title=str(file), title_justify="left")
    for column in ("experiment", "unit", "layer", "traffic", "arm", "model", "share"):
        table.add_column(column, justify="right" if column in ("traffic", "share") else "left")
    for experiment in experiments:
        shown = [experiment.name, experiment.unit, experiment.layer, f"{experiment.eligible.share:.2%}"]
        # As it begins, which for a canary is not as it is declared.
        for arm in board.get(experiment.name).experiment.arms:
            model = arm.model if arm.policy is None else f"{arm.model}, own policy"
            if arm.digest is not None:
                model += f", bundle {arm.digest[:8]}…"
            table.add_row(*shown, arm.name, model, f"{arm.share:.2%}")
            shown = [""] * 4
    console = Console()
    console.print(table)
    for experiment in experiments:
        if (told := plan(experiment)) is not None:
            console.print(f"{experiment.name}, {told}", highlight=False, markup=False)
