"""Where a long build keeps what is finished, so that a killed one goes on instead of starting again."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from compress.errors import InputError
from compress.tensorfiles import save


class Workspace:
    """A folder of finished pieces, each a few named tensors; pieces become visible only when complete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, name: str) -> dict[str, Tensor] | None:
        """A finished piece, or None."""
        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            return None
        try:
            return load_file(path)
        except (SafetensorError, OSError):
            # Cut off by a full disk or a crash of the machine: made again.
            return None

    def store(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a piece. Raises OSError when the disk does not take it."""
        path = self.folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".partial")
        save({key: tensor.contiguous() for key, tensor in tensors.items()}, fresh)
        fresh.rename(path)


@contextmanager
def workspace(target: Path, key: str) -> Iterator[Workspace]:
    """The workspace of the output ``target``, with what an interrupted run of the same ``key`` left there.

    key: says everything that the pieces depend on. The folder stands hidden beside ``target``. It is removed
    when the block ends well, or by an InputError, which the same inputs would raise again; an interrupt, a
    full disk or a kill leaves it. Those of other keys are removed. Raises InputError while another process
    does the same work.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent / f".{target.name}.work-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    for other in target.parent.glob(f".{glob.escape(target.name)}.work-*"):
        if other != folder:
            _remove_unused(other)
    folder.mkdir(exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{target}: another process is building this very output; wait for it or stop it"
            ) from error
        try:
            yield Workspace(folder)
        except InputError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


def _remove_unused(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass  # another process is at work there
    finally:
        os.close(handle)
