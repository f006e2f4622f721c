"""A checkpoint written tensor by tensor, in any order, and continued after a kill.

Names, shapes and dtypes of a checkpoint are known before its values, and so is every byte's place: the files
are laid out first and filled in place. Nothing waits in memory for its shard to be full.
"""

from __future__ import annotations

import json
import math
import os
import struct
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from compress.errors import InputError
from compress.tensorfiles import is_finite

SHARD_BYTES = 2 * 1024**3
CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes go: file and offset of its first element."""

    file: Path
    offset: int
    shape: tuple[int, ...]


class ShardWriter:
    """Writes ``model.safetensors``, or numbered shards and an index, into ``folder``.

    notes: a file outside of ``folder`` that names finished tensors, for writers that a later one of the same
    layout may continue; ``finished`` are those of an earlier one, and need not be written again. The files
    have their final names from the beginning, so ``folder`` must be private until ``close``. Threads may
    write different tensors at once.
    """

    def __init__(
        self,
        folder: Path,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: torch.dtype,
        shard_bytes: int = SHARD_BYTES,
        notes: Path | None = None,
    ) -> None:
        self.folder, self.dtype = folder, dtype
        folder.mkdir(parents=True, exist_ok=True)
        shards = _split(shapes, dtype.itemsize, shard_bytes)
        self.places: dict[str, Place] = {}
        for number, names in enumerate(shards):
            file = folder / _file_name(number, len(shards))
            header, offsets = _header(names, shapes, dtype)
            for name in names:
                self.places[name] = Place(file, len(header) + offsets[name], shapes[name])
            if not _laid_out(file, header, len(header) + offsets[""]) and notes is not None:
                notes.unlink(missing_ok=True)
        if len(shards) > 1:
            _write_index(folder, shards, self.bytes)
        self.finished = self._noted(notes)
        self._lock = threading.Lock()
        self._notes = None if notes is None else notes.open("a")

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(math.prod(place.shape) * self.dtype.itemsize for place in self.places.values())

    def write(self, name: str, values: Tensor, start: int = 0) -> None:
        """Put ``values``, rounded to the checkpoint's dtype, at element ``start`` of the flattened tensor.

        Raises InputError where a value is too large for the dtype, OSError when the disk does not take it.
        """
        stored = values.to(self.dtype).contiguous()
        if not is_finite(stored):
            raise InputError(f"output.dtype: {name} does not fit into {self.dtype}; use bfloat16 or float32")
        place = self.places[name]
        data = stored.view(-1).view(torch.uint8).numpy().data
        at = place.offset + start * self.dtype.itemsize
        with place.file.open("r+b") as file:
            while data:
                written = os.pwrite(file.fileno(), data, at)
                data, at = data[written:], at + written

    def finish(self, name: str) -> None:
        """Note that all of ``name`` is written."""
        with self._lock:
            if self._notes is not None:
                self._notes.write(name + "\n")
                self._notes.flush()
            self.finished.add(name)

    def close(self) -> None:
        """The checkpoint is complete. Raises ValueError where a tensor was never finished."""
        if self._notes is not None:
            self._notes.close()
        if missing := self.places.keys() - self.finished:
            raise ValueError(f"{self.folder}: {sorted(missing)[0]} was never written")

    def _noted(self, notes: Path | None) -> set[str]:
        if notes is None or not notes.is_file():
            return set()
        # A killed writer's last line may be half a name.
        return set(notes.read_text(errors="replace").split("\n")[:-1]) & self.places.keys()


def _split(shapes: Mapping[str, tuple[int, ...]], itemsize: int, shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        count = math.prod(shape) * itemsize
        if shards[-1] and size + count > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += count
    return shards


def _file_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _header(
    names: Iterable[str], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
) -> tuple[bytes, dict[str, int]]:
    """The head of a safetensors file, and offsets behind it; under "" that of the end."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offsets, at = {}, 0
    for name in names:
        offsets[name] = at
        end = at + math.prod(shapes[name]) * dtype.itemsize
        entries[name] = {"dtype": CODES[dtype], "shape": list(shapes[name]), "data_offsets": [at, end]}
        at = end
    offsets[""] = at
    text = json.dumps(entries, separators=(",", ":")).encode()
    # The format's own alignment: 8 bytes of length, then JSON padded with blanks.
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, offsets


def _laid_out(file: Path, header: bytes, size: int) -> bool:
    """Give ``file`` its head and size; whether it had them already, from a writer that was cut off."""
    if file.is_file() and file.stat().st_size == size:
        with file.open("rb") as stream:
            if stream.read(len(header)) == header:
                return True
    with file.open("wb") as stream:
        stream.write(header)
        stream.truncate(size)
    return False


def _write_index(folder: Path, shards: list[list[str]], total: int) -> None:
    index = {
        "metadata": {"total_size": total},
        "weight_map": {n: _file_name(i, len(shards)) for i, shard in enumerate(shards) for n in shard},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
