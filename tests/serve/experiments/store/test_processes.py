"""Processes that are killed, and processes that write at once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from serve.experiments.store.store import Store
from tests.serve.experiments.store.samples import feedback, flush, served

ROOT = Path(__file__).parents[4]
PROGRAM = "tests.serve.experiments.store.writing_process"


def begin(url: str, folder: Path, first: int, most: int) -> subprocess.Popen[str]:
    """A process that writes records from ``first`` on, ``most`` of them or, for 0, until it is killed."""
    words = [sys.executable, "-m", PROGRAM, url, str(folder), str(first), str(most)]
    return subprocess.Popen(
        words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )


def ready(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """The same, once its store is open."""
    assert process.stdout.readline() == "open\n"
    return process


def test_after_kill_9_everything_acknowledged_is_there(url: str, tmp_path: Path) -> None:
    acknowledged = killed(ready(begin(url, tmp_path / "spool", 0, 0)))
    check(url, tmp_path, acknowledged)


def test_after_kill_9_what_the_database_did_not_take_is_there_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'experiments.db'}"
    process = ready(begin(url, tmp_path / "spool", 0, 0))
    with closing(sqlite3.connect(tmp_path / "experiments.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        acknowledged = killed(process)
        assert acknowledged
    check(url, tmp_path, acknowledged)


def killed(process: subprocess.Popen[str]) -> list[int]:
    """Numbers of the feedback that was taken before the process was killed."""
    lines = [process.stdout.readline() for _ in range(60)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    acknowledged = [int(line) for line in lines if line.endswith("\n")]
    assert len(acknowledged) >= 60
    return acknowledged


def check(url: str, tmp_path: Path, acknowledged: list[int]) -> None:
    """All of it is in the database, with the responses that it is about."""
    store = Store.open(url, tmp_path / "spool")
    flush(store)
    said = list(store.outcomes("weights"))
    found = list(store.served("weights"))
    store.close()
    # One more may have been written and not acknowledged any more.
    assert len(said) - len(acknowledged) in (0, 1)
    assert found[: len(acknowledged)] == [served(number) for number in acknowledged]
    assert said[: len(acknowledged)] == [feedback(number) for number in acknowledged]


def test_processes_share_a_folder_and_a_database_from_their_first_moment(url: str, tmp_path: Path) -> None:
    processes = [begin(url, tmp_path / "spool", first, 40) for first in (0, 100, 200)]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert len(output.splitlines()) == 41
    store = Store.open(url, tmp_path / "spool")
    flush(store)
    numbers = [first + number for first in (0, 100, 200) for number in range(40)]
    assert list(store.served("weights")) == [served(number) for number in numbers]
    assert list(store.outcomes("weights")) == [feedback(number) for number in numbers]
    assert list((tmp_path / "spool").glob("*.jsonl")) == []
    store.close(seconds=0)
