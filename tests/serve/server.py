"""A real server on a free port of this machine, for tests of what crosses the wire."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from serve.api.app import create_app
from serve.api.surface import EngineSurface
from serve.serversettings import ServerSettings


@contextmanager
def serving(engine: EngineSurface, settings: ServerSettings | None = None) -> Iterator[str]:
    """A server for ``engine`` on a free port of this machine; its address."""
    with serving_app(create_app(engine, settings)) as origin:
        yield f"{origin}/v1"


@contextmanager
def serving_app(app: FastAPI) -> Iterator[str]:
    """A server for ``app`` on a free port of this machine; its origin."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [free]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.005)
            yield f"http://127.0.0.1:{free.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
