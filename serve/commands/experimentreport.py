"""twinserve experiment report: what an experiment has shown so far."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from compress.errors import InputError

if TYPE_CHECKING:
    from serve.experiments.statistics import Report
    from serve.experiments.store.store import Store

JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report there too.")]
HtmlFile = Annotated[Path | None, typer.Option("--html", metavar="FILE.html", help="The report as a page.")]
StoreUrl = Annotated[str, typer.Option(metavar="URL", help="The database: sqlite:///FILE or postgresql://….")]
SQLITE = "sqlite:///"
DEFAULT_STORE = "sqlite:///state/experiments.db"


def report(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT")],
    store: StoreUrl = DEFAULT_STORE,
    before: Annotated[
        str | None,
        typer.Option(
            metavar="EXPERIMENT", help="An earlier one of the same salt, arms all alike: for CUPED."
        ),
    ] = None,
    json_file: JsonFile = None,
    html: HtmlFile = None,
) -> None:
    """Show every arm against the control, with intervals that may be looked at daily, and what to do.

    Example: twinserve experiment report dynamic-or-static --html report.html
    """
    from serve.experiments.statistics.source import report_of

    with opened(store) as records:
        made = report_of(records, name, now=time.time(), before=before)
    deliver(made, json_file, html)


@contextmanager
def opened(store: str) -> Iterator[Store]:
    """The database of an endpoint, to be read. Raises InputError for a file that is not there."""
    from serve.experiments.store.store import Store

    if store.startswith(SQLITE) and not Path(store.removeprefix(SQLITE)).is_file():
        raise InputError(
            f"{store.removeprefix(SQLITE)}: no such file; give the endpoint's database with --store"
        )
    with TemporaryDirectory() as spool:
        # A spool of its own, and nothing deleted: the endpoint's are the endpoint's business.
        records = Store.open(store, Path(spool), retention=None)
        try:
            yield records
        finally:
            records.close()


def deliver(made: Report, json_file: Path | None, html: Path | None) -> None:
    """Print a report, and write it to the files that were asked for."""
    from serve.experiments.statistics.page import page
    from serve.experiments.statistics.table import print_report

    print_report(made, Console())
    for file, text in ((json_file, made.model_dump_json(indent=2) + "\n"), (html, page(made))):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
