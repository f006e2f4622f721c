"""Safetensors files, read one tensor at a time and written shard by shard."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from compress.errors import InputError

# Elements of a parameter that are worked on at once: a megabyte an input stays in the processor's caches,
# and memory does not grow with the parameter.
STRETCH = 1 << 18
METADATA = "__metadata__"
# The format's names; of those that it has, the ones that torch computes with.
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class TensorFiles:
    """The tensors of one folder: name -> the file that holds it, and where. They are read by position: mapped
    files would count with all their pages as this process' memory, and cost a fault for each."""

    folder: Path
    files: dict[str, Path] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """One tensor, or some of its rows, in its stored dtype.

        Raises InputError when the file has become unreadable or the tensor holds NaN or infinity.
        """
        path, shape, code = self.files[name], self.shapes[name], self.dtypes[name]
        if code not in DTYPES:
            raise InputError(f"{path}: tensor {name} is stored as {code}, which is not supported")
        first = 0
        if rows is not None:
            first, stop, _ = rows.indices(shape[0])
            shape = (max(0, stop - first), *shape[1:])
        tensor = torch.empty(shape, dtype=DTYPES[code])
        at = self.offsets[name] + first * math.prod(shape[1:]) * tensor.itemsize
        try:
            _fill(tensor, path, at)
        except OSError as error:
            raise InputError(f"{path}: tensor {name} cannot be read: {error}") from error
        if tensor.is_floating_point() and not is_finite(tensor):
            raise InputError(
                f"{path}: tensor {name} holds NaN or infinite values; repair or retrain the checkpoint"
            )
        return tensor


def _fill(tensor: Tensor, path: Path, at: int) -> None:
    data = tensor.view(-1).view(torch.uint8).numpy().data if tensor.numel() else b""
    file = os.open(path, os.O_RDONLY)
    try:
        while data:
            count = os.preadv(file, [data], at)
            if not count:
                raise OSError("the file has become shorter")
            data, at = data[count:], at + count
    finally:
        os.close(file)


def open_tensors(folder: Path, stem: str = "model") -> TensorFiles:
    """The safetensors of ``folder``: ``<stem>.safetensors``, or the shards its index names.

    Raises InputError for a missing, truncated or foreign file, and for pickle-only folders.
    """
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if single.is_file():  # first, as transformers does it
        paths = [single]
    elif index.is_file():
        paths = _shards(index)
    else:
        raise InputError(_nothing_found(folder, single.name))
    found = TensorFiles(folder)
    for path in paths:
        try:
            # Refuses what is no whole safetensors file; only the offsets it keeps to itself.
            with safe_open(path, framework="pt"):
                header, begin = _header(path)
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path}: not a complete safetensors file ({error}); download or copy it again"
            ) from error
        for name, entry in header.items():
            if name != METADATA:
                found.files[name] = path
                found.shapes[name] = tuple(entry["shape"])
                found.dtypes[name] = entry["dtype"]
                found.offsets[name] = begin + entry["data_offsets"][0]
    return found


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The head of a safetensors file, and where its data begin."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    return header, 8 + length


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"{index}: not a safetensors index; download or copy it again") from error
    paths = [index.parent / Path(str(name)).name for name in names]
    for path in paths:
        if not path.is_file():
            raise InputError(
                f"{index.parent}: shard {path.name} is named in the index but missing; copy it too"
            )
    return paths


def _nothing_found(folder: Path, wanted: str) -> str:
    pickles = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLES)
    if pickles:
        return (
            f"{folder}: weights exist only as a pickle ({pickles[0]}), which is never opened because it "
            'can run code; convert it where you trust it: python -c "from transformers import '
            "AutoModelForCausalLM as M; M.from_pretrained('IN').save_pretrained('OUT')\""
        )
    return f"{folder}: no {wanted} found; point to a folder saved with save_pretrained"


def is_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite: extremes show both, at a fraction of a look at every element."""
    return not tensor.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def stretches(shape: tuple[int, ...]) -> Iterator[tuple[int, slice | None]]:
    """A tensor in consecutive pieces: position of the first element, and rows; None are all rows."""
    width = torch.Size(shape[1:]).numel()
    step = max(1, STRETCH // width)
    if step >= shape[0]:
        yield 0, None
        return
    for first in range(0, shape[0], step):
        yield first * width, slice(first, min(first + step, shape[0]))


def hash_tensors(tensors: Iterable[tuple[str, Tensor]], preface: str = "") -> str:
    """sha256 over names, dtypes, shapes and bytes, in the order given and after ``preface``."""
    return hash_parts(((name, tuple(tensor.shape), [tensor]) for name, tensor in tensors), preface)


def hash_parts(tensors: Iterable[tuple[str, tuple[int, ...], Iterable[Tensor]]], preface: str = "") -> str:
    """``hash_tensors`` of tensors that come in consecutive pieces: (name, shape of the whole, pieces)."""
    digest = hashlib.sha256(preface.encode())
    for name, shape, parts in tensors:
        for number, part in enumerate(parts):
            if number == 0:
                digest.update(f"{name} {part.dtype} {shape}\n".encode())
            digest.update(part.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save(tensors: dict[str, Tensor], path: Path) -> None:
    """Write one safetensors file. Raises OSError when the disk does not take it."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path}: cannot be written: {error}") from error
