"""twinserve align: reorder a model's units to match another's, without changing what it computes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from serve.commands.calibration import read_ids
from serve.commands.progress import bars

if TYPE_CHECKING:
    from compress.alignment import Alignment


def align(
    reference: Annotated[str, typer.Argument(metavar="REFERENCE", help="The model that stays as it is.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model to reorder.")],
    prompts: Annotated[
        Path,
        typer.Option(
            metavar="FILE.jsonl", help='Text to compare units on: lines with "text", "prompt" or "messages".'
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="The aligned model's folder.")
    ],
    part: Annotated[
        list[str] | None, typer.Option(help="What may move: ffn, attention or residual; default: all.")
    ] = None,
) -> None:
    """Make two models that were trained from different beginnings fit to be averaged.

    Writes a copy of MODEL that computes the same, its units in REFERENCE's order. Fine-tunes of one base
    need no alignment, and get none.

    Example: twinserve align models/first models/second --prompts text.jsonl -o models/second-aligned
    """
    import compress.alignment as alignment
    from compress.loading import load_tokenizer
    from compress.sources import resolve
    from compress.staging import refuse_existing

    refuse_existing(output)
    first, second = resolve(reference), resolve(model)
    sequences = read_ids(prompts, load_tokenizer(first))
    with bars() as shown:
        found = alignment.align(
            first, second, sequences, parts=part or alignment.PARTS, progress=shown.report
        )
    alignment.write_aligned(found, output)
    _show(found, output, Console())


def _show(found: Alignment, output: Path, console: Console) -> None:
    table = Table(title="average of both models, nats a token", title_justify="left")
    for column in ("aligned before", "loss", "barrier", ""):
        table.add_column(column, justify="right" if column in ("loss", "barrier") else "left")
    for choice, loss in found.losses.midpoints.items():
        mark = "chosen" if choice == found.chosen else ""
        name = " + ".join(choice) or "nothing"
        table.add_row(name, f"{loss:.4f}", f"{found.losses.barrier(choice):z.4f}", mark)
    console.print(table)
    console.print(f"alone: reference {found.losses.reference:.4f}, model {found.losses.model:.4f}")
    if found.abstains:
        console.print(f"nothing was reordered: no order lowers the barrier, so {output} is MODEL as it was")
    else:
        console.print(f"{len(found.permutations)} permutations in {output}, which computes what MODEL does")
