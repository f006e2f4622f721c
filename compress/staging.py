"""Folders that become visible only when complete."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.errors import InputError


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A private folder beside ``target`` that takes its place when the block ends without error.

    On any error, Ctrl-C included, the private folder is removed and ``target`` is as it was. An
    existing ``target`` is replaced; a link to a folder keeps pointing there. What killed processes
    left behind is removed on the next use: each private folder is locked by the process that fills
    it, and the lock ends with the process, whatever its id or container.
    """
    target = target.resolve()
    if not target.name:
        raise InputError(f"{target}: the root folder cannot be replaced; choose another output folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.parent):
        _sweep(target)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
        owner = os.open(folder, os.O_RDONLY)
        fcntl.flock(owner, fcntl.LOCK_EX)
    try:
        folder.chmod(0o777 & ~_umask())
        yield folder
        with _locked(target.parent):
            _swap(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(owner)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Held for moments only: sweeping and swapping in one parent folder happen one at a time."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _swap(folder: Path, target: Path) -> None:
    if not target.exists():
        folder.rename(target)
        return
    shelter = Path(tempfile.mkdtemp(prefix=f".{target.name}.retired-", dir=target.parent))
    retired = shelter / target.name
    target.rename(retired)
    try:
        folder.rename(target)
    except BaseException:
        retired.rename(target)
        raise
    finally:
        shutil.rmtree(shelter, ignore_errors=True)


def _sweep(target: Path) -> None:
    name = glob.escape(target.name)
    for shelter in target.parent.glob(f".{name}.retired-*"):
        # Killed between the two renames of a swap: the old folder is whole and goes back.
        if (shelter / target.name).exists() and not target.exists():
            (shelter / target.name).rename(target)
        shutil.rmtree(shelter, ignore_errors=True)
    for leftover in target.parent.glob(f".{name}.partial-*"):
        handle = os.open(leftover, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True)
        except BlockingIOError:
            pass  # somebody is filling it
        finally:
            os.close(handle)


def refuse_existing(output: Path) -> None:
    """Raises InputError when ``output`` exists and is not an empty folder, for commands that replace
    nothing."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output}: exists already; choose another output folder, or delete it")


def publish(path: Path) -> None:
    """Give a file that only we hold the usual permissions: safetensors writes for the owner alone,
    and a server often runs as somebody else. Hard links into another folder stay as they are."""
    if path.stat().st_nlink == 1:
        path.chmod(0o666 & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def hard_copy(source: Path, folder: Path) -> None:
    """Fill ``folder`` with ``source``'s files as hard links: a copy that costs no space.

    Whoever changes a file of the copy must replace it, never write into it.
    """
    for path in sorted(source.rglob("*")):
        place = folder / path.relative_to(source)
        if path.is_dir():
            place.mkdir(exist_ok=True)
            shutil.copymode(path, place)
        else:
            try:
                os.link(path, place)
            except OSError:  # the file system knows no hard links
                shutil.copy2(path, place)
    shutil.copymode(source, folder)
