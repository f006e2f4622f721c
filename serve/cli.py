"""The command line: ``twinserve``. Bad usage exits 2, a failure 1 with one sentence."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
import warnings

import typer
from rich.console import Console

from compress.errors import InputError
from serve.commands import (
    align,
    ask,
    build,
    chat,
    evaluate,
    evolve,
    experiment,
    export,
    grow,
    inspect,
    keys,
    merge,
    run,
)

app = typer.Typer(
    name="twinserve",
    help="One endpoint that behaves like many fine-tuned models for about the memory of one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (
    build.build,
    build.compress,
    merge.merge,
    merge.methods,
    merge.gram,
    evolve.evolve,
    build.train_router,
    grow.add,
    grow.remove,
    align.align,
    inspect.inspect,
    export.export,
    evaluate.evaluate,
    run.serve,
    ask.generate,
    ask.route,
    chat.chat,
):
    app.command(name=command.__name__.replace("_", "-").replace("evaluate", "eval"))(command)
app.add_typer(keys.app, name="keys")
app.add_typer(experiment.app, name="experiment")


def main() -> None:
    """Run the command line; anything a user can mend is told in one sentence."""
    # Loading bars and advice of libraries among themselves would tear tables and bars apart.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    level = os.environ.get("TWINSERVE_LOG", "WARNING").upper()
    logging.basicConfig(level=level, format="%(levelname)s %(message)s")
    errors = Console(stderr=True)
    # Imports leave objects by the hundred thousand. To look through them for cycles over and over, and once
    # more at the end, would take a second of every command.
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)
    try:
        app()
    except InputError as error:
        errors.print(f"[bold red]error:[/] {_plain(error)}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("interrupted", style="bold red")
        sys.exit(130)
    except OSError as error:
        errors.print(f"[bold red]error:[/] {_plain(error)}", soft_wrap=True)
        sys.exit(1)


def _plain(error: BaseException) -> str:
    from rich.markup import escape

    return escape(str(error))
