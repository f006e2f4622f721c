"""Command lines run inside the test's process: importing torch anew each time would take seconds."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from serve.cli import main


@dataclass
class Done:
    stdout: str
    stderr: str


def run(
    folder: Path,
    *words: object,
    stdin: str = "",
    code: int = 0,
    program: Callable[[], object] = main,
) -> Done:
    """``program`` with ``words`` as its arguments, run in ``folder``; it must exit with ``code``."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["twinserve", *map(str, words)])
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        patch.setenv("COLUMNS", "120")
        ended: int | str = 0
        try:
            program()
        except SystemExit as exit:
            ended = exit.code or 0
    done = Done(out.getvalue(), err.getvalue())
    assert ended == code, done.stdout + done.stderr
    return done
