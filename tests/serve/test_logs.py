"""Where the endpoint's log goes, and in which form."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from serve.logs import LogSettings, configure
from tests.serve.started import started


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    # What servers of other tests have configured, and pytest's own handlers, which must not be ended.
    loggers = [logging.getLogger(name) for name in ("", "uvicorn", "uvicorn.error", "uvicorn.access")]
    kept = [(log.handlers[:], log.level, log.propagate) for log in loggers]
    for log in loggers:
        log.handlers[:], log.propagate = [], True
        log.setLevel(logging.NOTSET)
    yield
    for log, (handlers, level, propagate) in zip(loggers, kept, strict=True):
        log.handlers[:], log.propagate = handlers, propagate
        log.setLevel(level)


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

    def hello() -> None:
        for name in ("uvicorn.error", "uvicorn.access"):
            logging.getLogger(name).info("%s - hello", "127.0.0.1")

    monkeypatch.setenv("TWINSERVE_LOG__FORMAT", form)
    done, _, _ = started(monkeypatch, then=hello)
    assert done.exit_code == 0
    lines = done.stderr.splitlines()
    assert sum("hello" in line for line in lines) == 1, "requests are our own lines"
    assert "serving twin with sorting, sentiment on http://127.0.0.1:8000" in " ".join(lines)
    assert done.stdout == ""
    if form == "json":
        wanted = {"serve.commands.run", "serve.live", "uvicorn.error"}
        assert {json.loads(line)["logger"] for line in lines} == wanted
    else:
        assert lines[-1].endswith("INFO uvicorn.error: 127.0.0.1 - hello")
