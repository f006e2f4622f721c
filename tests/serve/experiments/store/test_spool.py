"""Lines on disk survive what happens to processes and disks, and go when they are delivered."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from compress.errors import InputError
from serve.experiments.store.lines import encode
from serve.experiments.store.spool import Spool
from tests.serve.experiments.store.samples import served


def write(spool: Spool, *numbers: int) -> None:
    spool.publish(spool.write([encode(served(number)) for number in numbers], durable=False))


def take(spool: Spool, most: int = 100) -> list[str]:
    """Deliver one batch."""
    batch = spool.read(most)
    if batch is None:
        return []
    spool.done(batch)
    return [record.response for record, _ in batch.records]


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def test_lines_are_delivered_in_order_over_segments_which_then_are_gone(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=600)
    for number in range(10):
        write(spool, number)
    assert len(segments(tmp_path)) > 2
    assert spool.bytes == sum(path.stat().st_size for path in segments(tmp_path))
    delivered = []
    while batch := take(spool, most=2):
        delivered += batch
    assert delivered == [f"cmpl-{number}" for number in range(10)]
    assert spool.bytes == 0
    spool.close()
    assert segments(tmp_path) == []


def test_what_was_written_but_not_counted_is_not_delivered(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    places = spool.write([encode(served(1))], durable=True)
    assert take(spool) == []
    spool.publish(places)
    assert take(spool) == ["cmpl-1"]


def test_the_next_process_takes_over_what_is_left_in_the_order_it_was_written(tmp_path: Path) -> None:
    first = Spool(tmp_path, segment_bytes=1)
    for number in range(3):
        write(first, number)
    assert take(first, most=1) == ["cmpl-0"]
    first.close()
    second = Spool(tmp_path)
    write(second, 3)
    assert [record.response for record, _ in second.left()] == ["cmpl-1", "cmpl-2", "cmpl-3"]
    assert [take(second), take(second), take(second), take(second)] == [
        ["cmpl-1"],
        ["cmpl-2"],
        ["cmpl-3"],
        [],
    ]


def test_segments_of_a_process_that_lives_are_left_to_it(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    write(first, 1)
    second = Spool(tmp_path)
    assert second.bytes == 0
    assert take(second) == []
    assert take(first) == ["cmpl-1"]


@pytest.mark.parametrize("cut", [1, 10, 150])
def test_a_torn_last_line_is_skipped_and_the_ones_before_it_are_there(tmp_path: Path, cut: int) -> None:
    spool = Spool(tmp_path)
    write(spool, 1, 2)
    spool.close()
    (path,) = segments(tmp_path)
    os.truncate(path, path.stat().st_size - cut)
    again = Spool(tmp_path)
    assert take(again) == ["cmpl-1"]
    assert again.bytes == 0
    assert not again.aside.exists()


def test_a_damaged_line_within_is_told_apart_and_the_others_are_delivered(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    write(spool, 1, 2, 3)
    spool.close()
    (path,) = segments(tmp_path)
    content = bytearray(path.read_bytes())
    lines = bytes(content).splitlines(keepends=True)
    content[len(lines[0]) + 20] ^= 1
    path.write_bytes(content)
    again = Spool(tmp_path)
    batch = again.read(100)
    assert [record.response for record, _ in batch.records] == ["cmpl-1", "cmpl-3"]
    assert len(batch.damaged) == 1
    again.set_aside(batch.damaged)
    assert again.aside.read_bytes() == batch.damaged[0]


@pytest.mark.parametrize("failing", ["pwrite", "fsync"])
def test_what_a_disk_does_not_take_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    spool = Spool(tmp_path)
    write(spool, 1)
    real = os.pwrite

    def partly(file: int, data: memoryview, offset: int) -> int:
        real(file, data[:50], offset)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refused(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, partly if failing == "pwrite" else refused)
        for _ in range(5):
            with pytest.raises(OSError, match="No space left"):
                spool.write([encode(served(2))], durable=True)
    assert sum(path.stat().st_size for path in segments(tmp_path)) == spool.bytes
    assert len(segments(tmp_path)) == 1
    write(spool, 3)
    assert [take(spool), take(spool)] == [["cmpl-1"], ["cmpl-3"]]


def test_a_folder_that_cannot_be_made_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"the spool of experiments cannot be opened .*; give experiments"):
        Spool(tmp_path / "file" / "spool")
