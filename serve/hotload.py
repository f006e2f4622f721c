"""Loading a bundle beside an engine that serves: what must not harm the one that is there."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from compress.bundle import Bundle
from compress.errors import InputError
from serve.settings import EngineSettings

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


class TooLargeError(InputError):
    """The bundle does not fit into memory beside what is there."""


@contextmanager
def private_copy(bundle: Bundle, *, without_base: bool) -> Iterator[Bundle]:
    """The bundle in a folder that nobody else writes to, verified again; it is removed at the end.

    Weights are read through memory maps, and a process that reads such a map of a file cut short is killed:
    a copy that goes wrong is an error, and can be told. without_base: leave out the weights of base/, which
    are in memory already. Raises InputError when a file is not any more what the manifest says.
    """
    with tempfile.TemporaryDirectory(prefix="twinserve-") as folder:
        for name, expected in bundle.manifest.files.items():
            if without_base and name.startswith("base/") and name.endswith(".safetensors"):
                continue
            place = Path(folder) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(bundle.path / name, place)
            except OSError as error:
                raise InputError(f"{bundle.path}: {name} cannot be copied: {error.strerror}") from error
            with place.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != expected:
                    raise InputError(
                        f"{bundle.path}: {name} changed while it was read; load the bundle once it is "
                        "complete"
                    )
        try:
            yield Bundle(Path(folder), bundle.manifest, bundle.digest)
        except InputError as error:
            raise InputError(str(error).replace(folder, str(bundle.path))) from error


@contextmanager
def memory_told(bundle: Path) -> Iterator[None]:
    """Memory that runs out inside becomes a TooLargeError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has an exception of its own for a GPU's memory only.
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error):
            raise TooLargeError(f"{bundle}: memory ran out while it was loaded; make room first") from error
        raise


def check_memory(
    bundle: Bundle, settings: EngineSettings, *, shared_base: bool, shared_experts: bool
) -> None:
    """Raises TooLargeError when there is less memory than the least that the bundle's weights take."""
    needed = 0 if shared_experts else bundle.bytes()["experts"]
    if not shared_base:
        needed += bundle.manifest.base.parameters * settings.torch_dtype().itemsize
    free = _free_memory(settings.torch_device())
    if free is not None and needed > free:
        raise TooLargeError(
            f"{bundle.path}: its weights take at least {needed / 1e9:.2f} GB of memory and "
            f"{free / 1e9:.2f} GB are free; make room, or restart the endpoint with it"
        )


def _free_memory(device: str) -> int | None:
    """Bytes that can still be used on ``device``, None where the system does not tell."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = []
    if MEMINFO.is_file():
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        free.append(int(lines["MemAvailable"].split()[0]) * 1024)
    limit = CGROUP / "memory.max"
    if limit.is_file() and (most := limit.read_text().strip()) != "max":
        counts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        used = int((CGROUP / "memory.current").read_text())
        # What files were read lately counts as used, and is given up first.
        free.append(int(most) - used + int(counts["inactive_file"]))
    return min(free, default=None)
