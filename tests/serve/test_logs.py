"""Where the endpoint's log goes, and in which form."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import uvicorn
from typer.testing import CliRunner

from serve.cli import app
from serve.engine import Engine
from serve.logs import LogSettings, configure
from tests.serve.stub_engine import StubEngine


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # None of the test's own is ended by a new configuration.
    root.handlers[:] = []
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_every_logger_writes_to_stderr_in_one_form(capsys):
    configure(LogSettings(format="json", level="warning"))
    logging.getLogger("uvicorn.error").warning("cannot %s", "bind")
    logging.getLogger("uvicorn.error").info("not told")
    logging.getLogger("anyone").error("two\nlines")
    first, second = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (first["logger"], first["level"], first["message"]) == ("uvicorn.error", "WARNING", "cannot bind")
    assert second["message"] == "two\nlines" and "request_id" not in second


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_server_writes_nothing_in_another_form(monkeypatch, form):
    """The server's library, run as the command runs it, up to where it would listen."""
    engine = StubEngine()
    engine.stop = lambda: None

    def listen(app, **options):
        uvicorn.Config(app, **options)
        for name in ("uvicorn.error", "uvicorn.access"):
            logging.getLogger(name).info("%s - hello", "127.0.0.1")

    monkeypatch.setattr(Engine, "open", lambda *_, **__: engine)
    monkeypatch.setattr(uvicorn, "run", listen)
    monkeypatch.setenv("TWINSERVE_LOG__FORMAT", form)
    done = CliRunner().invoke(app, ["serve", "no-bundle"])
    assert done.exit_code == 0, done.exception
    lines = done.stderr.splitlines()
    assert sum("hello" in line for line in lines) == 1, "requests are our own lines"
    assert "serving twin with sorting, sentiment on http://127.0.0.1:8000" in " ".join(lines)
    assert done.stdout == ""
    if form == "json":
        assert {json.loads(line)["logger"] for line in lines} == {"serve.commands.run", "uvicorn.error"}
    else:
        assert lines[-1].endswith("INFO uvicorn.error: 127.0.0.1 - hello")
