"""twinserve experiment shadows: where an unseen answer differs from the one that a client saw."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from compress.errors import InputError
from serve.commands.experimentreport import DEFAULT_STORE, StoreUrl, opened

LONGEST = 200


def shadows(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT")],
    store: StoreUrl = DEFAULT_STORE,
    limit: Annotated[int, typer.Option(min=1, help="Pairs to show, the latest first.")] = 20,
) -> None:
    """Show pairs of answers that differ: what the client saw, and what the shadow said.

    Long texts are cut. Prompts are shown where the experiment stores them.

    Example: twinserve experiment shadows shadow-dynamic --limit 5
    """
    from serve.experiments.spec import Experiment
    from serve.experiments.statistics.figures import named
    from serve.experiments.statistics.shadows import paired

    with opened(store) as records:
        versions = records.history(name)
        if not versions:
            raise InputError(f"there is no experiment {name!r} in this store; look with experiment list")
        experiment = Experiment.model_validate_json(versions[-1].definition)
        pairs = paired(experiment, records.served(name))
    if experiment.shadow is None:
        raise InputError(f"experiment {name!r} has no shadow, so nothing stands side by side")
    whole = [pair for pair in pairs if "agreement" in pair[1].metrics]
    differ = [pair for pair in whole if not pair[1].metrics["agreement"]]
    columns = ["task", *(["prompt"] if experiment.store_prompts else []), "seen", experiment.shadow.arm]
    table = Table(*columns, show_lines=True)
    for front, behind in reversed(differ[-limit:]):
        cells = [named(behind.task or front.task or "?")]
        cells += [front.prompt or ""] if experiment.store_prompts else []
        cells += [front.text or "", behind.text or ""]
        table.add_row(*(Text(_cut(cell)) for cell in cells))
    console = Console()
    if differ:
        console.print(table)
    console.print(f"{len(differ):,} of {len(whole):,} pairs differ", highlight=False)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
