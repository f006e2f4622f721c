"""A clean terminal: libraries keep quiet, and what a user can mend is told in one sentence."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape
from transformers.utils import logging

from compress.errors import InputError


@contextmanager
def tidy_terminal() -> Iterator[None]:
    """Ends the program with exit code 1 and the message of an InputError or OSError, and no traceback."""
    # Their bars and advice would tear ours apart.
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        yield
    except (InputError, OSError) as error:
        text = f"[bold red]error:[/] {escape(str(error))}"
        Console(stderr=True).print(text, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
