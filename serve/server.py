"""The process that serves: it answers while the first bundle loads, and drains before it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from serve.live import Live

# For clients that do not read what is left for them, once nothing is generated any more.
LAST_WORDS = 5


class Server(uvicorn.Server):
    """Serves ``live``, whose first generation it loads in the background.

    SIGTERM and SIGINT begin a drain: new requests are refused, running ones have ``drain_timeout`` seconds,
    then their engine is stopped, which ends them with an error. A second signal ends the process at once.
    failure: why the first generation could not be loaded; the server has ended then.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        live: Live[Any],
        bundle: Path,
        drain_timeout: float,
        loaded: Callable[[], None],
    ) -> None:
        super().__init__(config)
        config.timeout_graceful_shutdown = LAST_WORDS
        self.live, self.bundle, self.loaded = live, bundle, loaded
        self.drain_timeout = drain_timeout
        self.failure: BaseException | None = None
        self._deadline: float | None = None
        self._first: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn would stop listening, and a balancer that asks /ready could not be told.
        for each in HANDLED_SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self.drain()
        # Threads in native code, as of a long prompt or a load, would hold the interpreter's end up.
        watch = threading.Timer(self.drain_timeout + 2 * LAST_WORDS, os._exit, [0])
        watch.daemon = True
        watch.start()

    def drain(self) -> None:
        """Answer what has begun, refuse the rest, and end."""
        self.live.drain()
        self._deadline = time.monotonic() + self.drain_timeout
        # Whoever is refused is to come back to another process, by a new connection.
        self.config.encoded_headers.append((b"connection", b"close"))
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._first = asyncio.create_task(self._load())

    async def on_tick(self, counter: int) -> bool:
        if await super().on_tick(counter):
            return True
        if self._deadline is None:
            return False
        if not self.live.idle and time.monotonic() < self._deadline:
            return False
        await self.live.stop()
        return True

    async def _load(self) -> None:
        try:
            await self.live.switch(self.bundle, 0)
        except Exception as error:
            if not self.live.draining:
                self.failure, self.should_exit = error, True
        else:
            self.loaded()
