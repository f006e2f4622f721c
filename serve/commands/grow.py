"""twinserve add, remove: one expert more or less, without building again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from serve.commands.progress import bars


def add(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    expert: Annotated[str, typer.Argument(metavar="TASK=CHECKPOINT", help="A fine-tune of the same base.")],
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE|DIR", help="Prompts of the new task, as train-router takes them."),
    ] = None,
    remerge: Annotated[
        bool, typer.Option(help="Also merge it into the shared base. Moves what the others answer.")
    ] = False,
) -> None:
    """Fit one more expert into a bundle. What the others answer stays as it was.

    Example: twinserve add BUNDLE recall=examples/zoo/adapters/recall --prompts examples/zoo/data/router
    """
    from compress.bundle import edit
    from serve.growing import grow, labelled

    task, found, checkpoint = expert.partition("=")
    if not found or not task or not checkpoint:
        raise typer.BadParameter(f"{expert}: give TASK=CHECKPOINT")
    read = labelled(bundle, task, prompts, remerge=remerge)
    with bars() as shown, edit(bundle) as folder:
        report = grow(folder, task, checkpoint, read, shown, remerge=remerge)
    facts = report["experts"][task]
    console = Console()
    console.print(f"{task}: {facts['kind']}, rank at most {facts['max_rank']}, {facts['bytes'] / 1e6:.1f} MB")
    if not (bundle / "router").is_dir():
        console.print(f"no router: ask for {bundle.name}:{task}")
    elif new := next((row for row in report["router"].get("added", [])[::-1] if row["task"] == task), None):
        console.print(
            f"router: {100 * new['recall']:.1f} % of {new['prompts']['test']} held-out prompts of {task} "
            f"find it, {100 * new['false_rejection']:.1f} % are taken for unknown; it takes "
            f"{100 * new['taken']:.1f} % of the others' prompts"
        )


def remove(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    task: Annotated[str, typer.Argument(metavar="TASK")],
) -> None:
    """Take one expert out of a bundle. What the others answer stays as it was.

    Example: twinserve remove bundles/quickstart recall
    """
    from compress.bundle import edit
    from serve.growing import shrink

    with bars() as shown, edit(bundle) as folder:
        manifest = shrink(folder, task, shown)
    kept = " (its factors stay: the shared base is reached through them)" if task in manifest.retired else ""
    Console().print(f"{task} answers nobody any more{kept}; left: {', '.join(manifest.tasks)}")
