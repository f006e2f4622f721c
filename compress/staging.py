"""Folders that become visible only when complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A private folder beside ``target`` that takes its place when the block ends without error.

    On any error, Ctrl-C included, the private folder is removed and ``target`` is as it was. An
    existing ``target`` is replaced. Leftovers of killed processes are removed on the next use.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    prefix = f".{target.name}.partial-{os.getpid()}-"
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        folder.chmod(0o755)
        yield folder
        _swap(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _swap(folder: Path, target: Path) -> None:
    if not target.exists():
        folder.rename(target)
        return
    retired = target.with_name(f".{target.name}.retired-{os.getpid()}")
    target.rename(retired)
    try:
        folder.rename(target)
    except BaseException:
        retired.rename(target)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def _sweep(target: Path) -> None:
    for retired in target.parent.glob(f".{target.name}.retired-*"):
        # Killed between the two renames of a swap: the old folder is whole and goes back.
        if not target.exists():
            retired.rename(target)
        elif not _alive(int(retired.name.rsplit("-", 1)[1])):
            shutil.rmtree(retired, ignore_errors=True)
    for leftover in target.parent.glob(f".{target.name}.partial-*-*"):
        pid = leftover.name.rsplit("-", 2)[1]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(leftover, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def hard_copy(source: Path, folder: Path) -> None:
    """Fill ``folder`` with ``source``'s files as hard links: a copy that costs no space.

    Whoever changes a file of the copy must replace it, never write into it.
    """
    for path in sorted(source.rglob("*")):
        place = folder / path.relative_to(source)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        else:
            try:
                os.link(path, place)
            except OSError:  # the file system knows no hard links
                shutil.copy2(path, place)
