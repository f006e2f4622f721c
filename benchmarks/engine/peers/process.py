"""The near side of a peer in a Python environment of its own (see worker.py)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.engine.protocol import Answers, Result, Workload

ROOT = Path(__file__).parents[3]
# Loading compiles kernels in some peers; a peer that hangs must not hold up the others for ever.
LOAD_LIMIT, RUN_LIMIT = 900.0, 1800.0


class PeerError(Exception):
    """A peer did not start or did not answer; says why."""


class Process:
    """A peer as a process that loads once and runs many workloads. peak: bytes of memory it has held."""

    def __init__(
        self, name: str, answers: Answers, python: Path, module: str, options: dict[str, Any], log: Path
    ) -> None:
        self.name, self.answers, self.log = name, answers, log
        self.peak: int | None = None
        log.parent.mkdir(parents=True, exist_ok=True)
        threads = str(options["threads"])
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}
        with log.open("w") as errors:
            try:
                self.process = subprocess.Popen(
                    [str(python), "-m", module, json.dumps(options)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    cwd=ROOT,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise PeerError(f"{python} cannot be run: {error.strerror}") from error
        try:
            self.version: str = self._answer(LOAD_LIMIT)["version"]
        except PeerError:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def run(self, workload: Workload) -> Result:
        """Raises PeerError with what the peer says."""
        assert self.process.stdin is not None
        self._signal(signal.SIGCONT)
        try:
            print(json.dumps([asdict(request) for request in workload]), file=self.process.stdin, flush=True)
        except OSError as error:
            raise PeerError(f"the process has ended; see {self.log}") from error
        try:
            answer = self._answer(RUN_LIMIT)
            self.peak = int(answer["peak"])
            return Result(**answer["result"])
        finally:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        # Some peers poll, or let their threads spin, while others have their turn.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def _answer(self, limit: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        # Killing it ends the reading, which has no time limit of its own.
        timer = threading.Timer(limit, self._signal, [signal.SIGKILL])
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not line:
            raise PeerError(f"the process ended with {self.process.wait()}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{answer['error']} (see {self.log})")
        return answer

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"{lines[-1]} (see {self.log})" if lines else "it said nothing"

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self._signal(signal.SIGCONT)
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait()
        self.process.stdout.close()
