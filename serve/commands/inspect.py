"""twinserve inspect: what is inside a bundle, verified."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def inspect(bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")]) -> None:
    """Verify a bundle's checksums and show what is inside.

    Example: twinserve inspect bundles/quickstart
    """
    print_bundle(bundle)


def print_bundle(path: Path) -> None:
    """Print the table of a bundle; raises InputError when it does not verify."""
    from compress.bundle import Bundle

    bundle = Bundle.open(path)
    manifest, sizes = bundle.manifest, bundle.bytes()
    unit = 2 * manifest.base.parameters
    table = Table(title=f"{path}: {len(manifest.files)} files verified", title_justify="left")
    for column in ("part", "what", "max rank", "MB", "× base", "energy kept"):
        table.add_column(column, justify="left" if column in ("part", "what") else "right")
    what = f"{manifest.reference} base, {manifest.base.dtype}"
    table.add_row("base", what, "", *_size(sizes["base"], unit), "")
    for task, expert in manifest.experts.items():
        kind = "adapter, exact" if expert.kind == "adapter" else "full, truncated"
        if task in manifest.retired:
            kind = "removed; the shared base uses it"
        kept = f"{100 * expert.kept:.1f} %"
        table.add_row(task, kind, str(expert.max_rank), *_size(expert.bytes, unit), kept)
    table.add_row("router", "" if sizes["router"] else "none", "", *_size(sizes["router"], unit), "")
    table.add_section()
    table.add_row("all", "", "", *_size(sum(sizes.values()), unit), "")
    console = Console()
    console.print(table)
    weights = ", ".join(f"{task} {weight:g}" for task, weight in manifest.shared.weights.items())
    console.print(f"base    {manifest.base.source}, {manifest.base.parameters:,} parameters")
    console.print(f"sha256  {manifest.base.sha256}", soft_wrap=True)
    console.print(f"shared  {manifest.shared.method}: {weights}")
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    console.print(f"made by {versions}")


def _size(size: int, unit: int) -> tuple[str, str]:
    return f"{size / 1e6:.1f}", f"{size / unit:.3f}"
