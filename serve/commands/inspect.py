"""twinserve inspect: what is inside a bundle, verified."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

KINDS = {
    "adapter": "adapter, exact",
    "compressed adapter": "adapter, compressed",
    "full": "full, truncated",
    "merge": "the merge itself",
}


def inspect(bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")]) -> None:
    """Verify a bundle's checksums and show what is inside.

    Example: twinserve inspect bundles/quickstart
    """
    print_bundle(bundle)


def print_bundle(path: Path) -> None:
    """Print the table of a bundle; raises InputError when it does not verify."""
    from compress.bundle import Bundle
    from serve.commands.build import report_of

    bundle = Bundle.open(path)
    manifest, sizes = bundle.manifest, bundle.bytes()
    unit = 2 * manifest.base.parameters
    table = Table(title=f"{path}: {len(manifest.files)} files verified", title_justify="left")
    for column in ("part", "what", "max rank", "MB", "× base", "energy kept"):
        table.add_column(column, justify="left" if column in ("part", "what") else "right")
    what = f"{manifest.reference} base, {manifest.base.dtype}"
    table.add_row("base", what, "", *_size(sizes["base"], unit), "")
    for task, expert in manifest.experts.items():
        kind = KINDS[expert.kind]
        if task in manifest.retired and expert.kind != "merge":
            kind = "removed; the shared base uses it"
        kept = f"{100 * expert.kept:.1f} %"
        table.add_row(task, kind, str(expert.max_rank), *_size(expert.bytes, unit), kept)
    table.add_row("router", "" if sizes["router"] else "none", "", *_size(sizes["router"], unit), "")
    table.add_section()
    table.add_row("all", "", "", *_size(sum(sizes.values()), unit), "")
    console = Console()
    console.print(table)
    if (path / "report.json").is_file() and (kinship := report_of(path).get("kinship")):
        _print_kinship(console, kinship)
    console.print(f"base    {manifest.base.source}, {manifest.base.parameters:,} parameters")
    console.print(f"sha256  {manifest.base.sha256}", soft_wrap=True)
    console.print(f"shared  {manifest.shared}")
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    console.print(f"made by {versions}")


def _print_kinship(console: Console, kinship: dict[str, Any]) -> None:
    """Cosines of the task vectors, numbered, so that twenty fit, and the pair that conflicts most."""
    if len(kinship["tasks"]) < 2:
        return
    table = Table(title="kinship: cosines of task vectors", title_justify="left")
    table.add_column("")
    for number in range(1, len(kinship["tasks"]) + 1):
        table.add_column(str(number), justify="right")
    for number, (task, row) in enumerate(zip(kinship["tasks"], kinship["cosine"], strict=True), start=1):
        table.add_row(f"{number} {task}", *(f"{value:z.2f}" for value in row))
    console.print(table)
    worst = kinship["interference"][0]
    console.print(
        f"conflict most: {' and '.join(worst['tasks'])}, {100 * worst['conflict']:.1f} % by weight "
        f"(unrelated: 50 %), cosine {worst['cosine']:z.3f}",
        highlight=False,
    )


def _size(size: int, unit: int) -> tuple[str, str]:
    return f"{size / 1e6:.1f}", f"{size / unit:.3f}"
