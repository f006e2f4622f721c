"""twinserve merge, methods: plain merged checkpoints, and what there is to merge by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from serve.commands.calibration import calibration_of, read_ids
from serve.commands.options import Device, engine_settings
from serve.commands.progress import bars

GIGABYTE = 1024**3


def merge(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Our recipe, or mergekit's.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the model.")],
    shard: Annotated[float, typer.Option(min=0.001, help="Size of a file at most, in GiB.")] = 2.0,
) -> None:
    """Merge fine-tunes into one plain model, without experts.

    Killed, the same command goes on where it was. Example: twinserve merge configs/zoo.yaml -o merged
    """
    from compress.inputs import refuse_overlap, work_key
    from compress.mergedmodel import merge_model
    from compress.recipe import read_recipe
    from compress.staging import refuse_existing, staged
    from compress.workspace import workspace

    read = read_recipe(recipe)
    refuse_overlap(read.sources, output, recipe.parent)
    refuse_existing(output)
    calibration = calibration_of(read, recipe.parent)
    key = f"{work_key(read, recipe.parent, calibration)} {shard}"
    with bars() as shown, workspace(output, key) as work, staged(output) as folder:
        notes = merge_model(
            read,
            folder,
            work,
            relative_to=recipe.parent,
            calibration=calibration,
            shard_bytes=int(shard * GIGABYTE),
            progress=shown.report,
        )
        for note in notes:
            shown.print(f"note: {note}")
    size = sum(path.stat().st_size for path in output.glob("*.safetensors"))
    Console().print(
        f"{output}: {read.shared.merging.title} of {len(read.experts)} fine-tunes, {size / 1e6:.1f} MB",
        highlight=False,
        soft_wrap=True,
    )


def methods() -> None:
    """List the merge methods, their settings and papers."""
    from compress.merging import METHODS

    table = Table(title="shared: {method: NAME, SETTING: …}", title_justify="left", show_lines=True)
    for column in ("name", "what", "settings and defaults", "needs"):
        table.add_column(column, overflow="fold")
    for method in METHODS.values():
        settings = "\n".join(
            f"{name}" if field.is_required() else f"{name}: {field.default}"
            for name, field in method.parameters.model_fields.items()
        )
        needs = [f"{method.fewest}+ fine-tunes"]
        if method.needs_base:
            needs.append("their base")
        if method.data:
            needs.append(f"{method.data} of the fine-tunes' prompts")
        table.add_row(
            method.name, f"{method.title}\n{method.formula}\n{method.paper}", settings, "\n".join(needs)
        )
    Console().print(table)


def gram(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model that was fine-tuned.")],
    finetune: Annotated[str, typer.Argument(metavar="FINETUNE", help="A checkpoint or an adapter of it.")],
    prompts: Annotated[
        Path,
        typer.Option(metavar="FILE.jsonl", help='Lines with "prompt" or "messages", and "answer" if any.'),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the matrices go.")],
    limit: Annotated[int, typer.Option(min=1, help="Prompts at most.")] = 128,
    device: Device = None,
) -> None:
    """Gather the Gram matrices of a fine-tune's inputs for RegMean, where its prompts are.

    They say how layers' inputs vary together, and hold no prompt. Example:
    twinserve gram BASE adapters/tweets --prompts tweets.jsonl -o grams/tweets
    """
    from compress.checkpoints import Checkpoint
    from compress.finetunes import open_finetune
    from compress.gathering import gather_grams
    from compress.loading import load_tokenizer
    from compress.sources import resolve
    from compress.staging import refuse_existing

    refuse_existing(output)
    settings = engine_settings(device=device)
    opened = Checkpoint.open(resolve(base))
    tuned = open_finetune(resolve(finetune), opened)
    sequences = read_ids(prompts, load_tokenizer(opened.folder))[:limit]
    with bars() as shown:
        facts = gather_grams(
            tuned,
            opened,
            sequences,
            output,
            device=settings.torch_device(),
            stage="grams",
            progress=shown.report,
        )
    size = sum(path.stat().st_size for path in output.glob("*.safetensors"))
    widest = max(opened.table[f"{name}.weight"].shape[-1] for name in facts.readers)
    console = Console()
    console.print(
        f"{output}: {len(facts.readers)} Gram matrices of {facts.tokens} tokens in {facts.prompts} prompts, "
        f"{size / 1e6:.1f} MB",
        highlight=False,
        soft_wrap=True,
    )
    if facts.tokens < widest:
        console.print(
            f"note: the widest layer reads {widest} numbers, more than there are tokens; what they do not "
            "reach will be the average"
        )
