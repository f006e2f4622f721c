"""``twinserve serve`` up to where it would listen: no port, no model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from serve.cli import app
from serve.server import Server
from tests.serve.stub_engine import StubEngine


def started(
    monkeypatch: pytest.MonkeyPatch, *options: str, then: Callable[[], None] = lambda: None
) -> tuple[Result, Server, Any]:
    """The command's result, its server and its settings. then: called where it would serve."""
    servers: list[Server] = []
    given: list[Any] = []

    def opener(settings: Any, name: str) -> Callable[..., StubEngine]:
        given.append(settings)
        return lambda bundle, number, beside: StubEngine()

    def run(server: Server, sockets: Any = None) -> None:
        servers.append(server)
        asyncio.run(server._load())
        then()

    monkeypatch.setattr("compress.bundle.read_manifest", lambda path: None)
    monkeypatch.setattr("serve.opener.opener", opener)
    monkeypatch.setattr(Server, "run", run)
    done = CliRunner().invoke(app, ["serve", "twin", *options], catch_exceptions=False)
    return done, servers[0], given[0]
