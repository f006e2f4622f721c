"""Progress bars of long commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Report = Callable[[str, int, int], None]


class Bars:
    """One bar for every stage, made when the stage first reports."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, int] = {}

    def report(self, stage: str, done: int, total: int) -> None:
        """Set ``stage`` to ``done`` of ``total``."""
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._bars[stage], completed=done, total=total)  # type: ignore[arg-type]

    def stage(self, stage: str, total: int) -> Callable[[], None]:
        """A new stage of ``total`` steps; the returned callback counts one."""
        bar = self._progress.add_task(stage, total=total)
        return lambda: self._progress.advance(bar)

    def print(self, line: str) -> None:
        """A line above the bars."""
        self._progress.console.print(line, highlight=False, soft_wrap=True)


@contextmanager
def bars() -> Iterator[Bars]:
    """Bars on standard error, so that standard output stays clean for pipes."""
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bars(progress)


def no_bars() -> Bars:
    """Nothing to see, for work inside a server."""
    return Bars(Progress(console=Console(quiet=True), disable=True))
