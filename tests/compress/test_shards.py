"""Checkpoints filled in place: what other readers see, and what a killed writer leaves."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from compress.errors import InputError
from compress.shards import ShardWriter

SHAPES = {"a": (3, 5), "b": (7,), "c": (2, 2), "d": (0, 4)}


def values(name: str) -> torch.Tensor:
    return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(ord(name)))


def everything(folder) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shard_bytes", [1, 70, 10_000])
def test_any_order_and_any_stretches_make_the_same_bytes(tmp_path, dtype, shard_bytes):
    for folder, names in ((tmp_path / "x", "abcd"), (tmp_path / "y", "dcba")):
        writer = ShardWriter(folder, SHAPES, dtype, shard_bytes)
        for name in names:
            flat = values(name).reshape(-1)
            for start in range(0, len(flat), 4 if names == "abcd" else 3):
                writer.write(name, flat[start : start + (4 if names == "abcd" else 3)], start)
            writer.finish(name)
        writer.close()
    assert {n: t.tolist() for n, t in everything(tmp_path / "x").items()} == {
        n: values(n).to(dtype).tolist() for n in SHAPES
    }
    for path in (tmp_path / "x").iterdir():
        assert path.read_bytes() == (tmp_path / "y" / path.name).read_bytes()


def test_the_index_names_every_tensor_once(tmp_path):
    writer = ShardWriter(tmp_path, SHAPES, torch.float32, 60)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(SHAPES)
    assert index["metadata"]["total_size"] == writer.bytes == 4 * sum(values(n).numel() for n in SHAPES)


def test_a_second_writer_knows_what_the_first_finished(tmp_path):
    notes = tmp_path / "notes"
    first = ShardWriter(tmp_path, SHAPES, torch.float32, notes=notes)
    first.write("a", values("a"))
    first.finish("a")
    first.write("b", values("b")[:3])  # and then it is killed
    with notes.open("a") as stream:
        stream.write("c")  # half a line
    second = ShardWriter(tmp_path, SHAPES, torch.float32, notes=notes)
    assert second.finished == {"a"}
    for name in "bcd":
        second.write(name, values(name))
        second.finish(name)
    second.close()
    assert all(torch.equal(tensor, values(name)) for name, tensor in everything(tmp_path).items())


def test_nothing_is_believed_of_another_layout(tmp_path):
    notes = tmp_path / "notes"
    first = ShardWriter(tmp_path, SHAPES, torch.float32, notes=notes)
    first.write("a", values("a"))
    first.finish("a")
    assert ShardWriter(tmp_path, SHAPES, torch.float32, notes=notes).finished == {"a"}
    assert ShardWriter(tmp_path, SHAPES, torch.float16, notes=notes).finished == set()


def test_without_notes_nothing_but_the_checkpoint_is_written(tmp_path):
    writer = ShardWriter(tmp_path, SHAPES, torch.float32)
    for name in SHAPES:
        writer.write(name, values(name))
        writer.finish(name)
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_an_unfinished_checkpoint_cannot_be_closed(tmp_path):
    writer = ShardWriter(tmp_path, SHAPES, torch.float32)
    with pytest.raises(ValueError, match="never written"):
        writer.close()


def test_too_large_for_the_dtype(tmp_path):
    writer = ShardWriter(tmp_path, SHAPES, torch.float16)
    with pytest.raises(InputError, match=r"output\.dtype: b does not fit into torch\.float16"):
        writer.write("b", torch.full((7,), 1e6))
