"""Safetensors files, read one tensor at a time and written shard by shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from compress.errors import InputError

# Elements of a parameter that are worked on at once: a few megabytes an input stay in the processor's caches,
# and memory does not grow with the parameter.
STRETCH = 1 << 20
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class TensorFiles:
    """The tensors of one folder: name -> the file that holds it. No file stays open between reads,
    so that memory stays at one tensor and not at the pages of every checkpoint."""

    folder: Path
    files: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """One tensor, or some of its rows, in its stored dtype.

        Raises InputError when the file has become unreadable or the tensor holds NaN or infinity.
        """
        path = self.files[name]
        try:
            with safe_open(path, framework="pt") as file:
                tensor = file.get_tensor(name) if rows is None else file.get_slice(name)[rows]
                tensor = tensor.clone()
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: tensor {name} cannot be read: {error}") from error
        if tensor.is_floating_point() and not is_finite(tensor):
            raise InputError(
                f"{path}: tensor {name} holds NaN or infinite values; repair or retrain the checkpoint"
            )
        return tensor


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
    files: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    part = file.get_slice(name)
                    files[name] = path
                    shapes[name] = tuple(part.get_shape())
                    dtypes[name] = part.get_dtype()
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path}: not a complete safetensors file ({error}); download or copy it again"
            ) from error
    return TensorFiles(folder, files, shapes, dtypes)


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
