"""Safetensors files read by position, against the library's own reader."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from compress.errors import InputError
from compress.parallel import each
from compress.tensorfiles import open_tensors

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tensors")
    torch.manual_seed(0)
    tensors = {str(d).removeprefix("torch."): (10 * torch.randn(7, 3, 2)).to(d) for d in DTYPES}
    save_file(
        tensors | {"empty": torch.zeros(0, 4), "scalar": torch.tensor(2.5)},
        path / "model.safetensors",
        metadata={"made by": "a test"},
    )
    return path


@given(first=st.integers(0, 7), count=st.integers(0, 7))
def test_rows_are_those_that_the_library_reads(folder, first, count):
    tensors, rows = open_tensors(folder), slice(first, first + count)
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert tensors.files.keys() == set(file.keys())
        for name in file.keys():  # noqa: SIM118 (not a dict)
            whole = file.get_tensor(name)
            found = tensors.read(name)
            assert found.dtype == whole.dtype and found.shape == whole.shape and torch.equal(found, whole)
            if whole.dim() == 3:
                assert torch.equal(tensors.read(name, rows), whole[rows])


def test_a_file_cut_after_it_was_opened_is_named(folder, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((folder / "model.safetensors").read_bytes())
    tensors = open_tensors(tmp_path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    last = max(tensors.offsets, key=lambda name: tensors.offsets[name])
    with pytest.raises(InputError, match=rf"model\.safetensors: tensor {last} cannot be read: .*shorter"):
        tensors.read(last)


def test_a_type_that_torch_does_not_compute_with_is_named(tmp_path):
    save_file({"x": torch.zeros(2).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="tensor x is stored as F8_E4M3, which is not supported"):
        open_tensors(tmp_path).read("x")


def test_workers_share_the_threads_and_later_ones_have_them_all():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        workers = min(2, os.cpu_count() or 1)
        assert set(each(lambda _: torch.get_num_threads(), range(4), workers=2)) == {4 // workers}
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 4
    finally:
        torch.set_num_threads(before)
