"""A full disk costs records and nothing else."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.experiments.store.errors import StoreFullError
from serve.experiments.store.store import Store
from tests.serve.experiments.store.samples import feedback, flush, say, served


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root; the simulated full disk is tested all the same")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_on_a_disk_that_is_full_feedback_is_refused_and_what_was_taken_before_is_kept(
    small_disk: Path, tmp_path: Path
) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'experiments.db'}", small_disk / "spool")
    store.put(served(1))
    say(store, feedback(1))
    flush(store)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(2**20))
    with pytest.raises(
        StoreFullError, match=r"does not take records .* \(No space left on device\); try again"
    ):
        for number in range(100):
            # The segment's last page still has room for some.
            say(store, feedback(1, metrics={f"{number:0200}": 1.0}))
    store.put(served(2, prompt="x" * 2**16))
    # By itself: what is written together fails together.
    until = time.monotonic() + 10
    while not store.writer.dropped["disk"]:
        assert time.monotonic() < until
        time.sleep(0.005)
    filler.unlink()
    say(store, feedback(1, key="again"))
    assert store.writer.dropped["disk"] == 1
    flush(store)
    assert [record.response for record in store.served("weights")] == ["cmpl-1"]
    assert feedback(1, key="again") in list(store.outcomes("weights"))
    store.close()


def test_a_disk_that_fails_is_told_to_those_who_wait_and_found_well_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        store.put(served(1))
        with pytest.raises(StoreFullError, match="No space left on device"):
            say(store, feedback(1))
    assert store.find("cmpl-1") is None
    assert store.writer.dropped["disk"] == 1
    store.put(served(2))
    say(store, feedback(2))
    flush(store)
    assert (list(store.served("weights")), list(store.outcomes("weights"))) == ([served(2)], [feedback(2)])
