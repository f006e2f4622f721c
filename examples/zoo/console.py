"""What a user can mend, told in one sentence on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from compress.errors import InputError


@contextmanager
def one_sentence() -> Iterator[None]:
    """Ends the program with exit code 1 and the message of an InputError or OSError, and no traceback."""
    try:
        yield
    except (InputError, OSError) as error:
        text = f"[bold red]error:[/] {escape(str(error))}"
        Console(stderr=True).print(text, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
