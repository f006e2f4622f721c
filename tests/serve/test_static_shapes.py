"""Decode steps that a GPU could capture: the same operations on the same shapes, whoever takes part."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from serve.scheduler import round_rows
from tests import tiny
from tests.serve.packed import Packed, distance, last_logits

MIXTURES = [{}, {"t0": 1.0}, {"t1": 1.0}, {"t0": 0.5, "t2": 0.25}, {"t1": 1.25, "t2": -0.25}]
# What reads a tensor's numbers into Python waits for the GPU; no graph can hold it.
WAITS = {"aten._local_scalar_dense.default", "aten.nonzero.default"}


class Operations(TorchDispatchMode):
    """Every operation of a pass with the shapes and strides that it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        self.seen.append((str(function), tuple((tuple(t.shape), t.stride()) for t in tensors)))
        return function(*args, **kwargs)


@pytest.fixture
def prefilled(zoo):
    """A model with eight prompts of different lengths in its cache, and its decode steps."""

    def make(static, family="llama", mode="factored"):
        packed = Packed(zoo("full", family), mode, static=static)
        prompts = [tiny.prompt(row, 3 + 5 * row) for row in range(8)]
        for row, prompt in enumerate(prompts):
            packed.run([packed.work(row, 0, prompt[:-1], MIXTURES[row % 5])])
        step = [packed.work(row, len(p) - 1, p[-1:], MIXTURES[row % 5]) for row, p in enumerate(prompts)]
        return packed, prompts, step

    return make


def operations(packed, work):
    """What the decoder does in one step of ``work``."""
    forward, log = packed.mixture.model.forward, Operations()

    def logged(**inputs):
        with log:
            return forward(**inputs)

    packed.mixture.model.forward = logged
    try:
        packed.run(work)
    finally:
        packed.mixture.model.forward = forward
    return log.seen


def test_steps_of_one_bucket_are_the_same_operations(prefilled):
    packed, _, step = prefilled(static=True)
    five, seven = [step[1], step[3], step[4], step[6], step[7]], step[1:]
    one_mixture = [packed.work(w.segment.row, w.segment.start, w.segment.tokens, {"t2": 1.0}) for w in five]
    first = operations(packed, five)
    assert first == operations(packed, seven) == operations(packed, one_mixture)
    assert first != operations(packed, step[:2]), "two rows are a smaller graph"
    assert WAITS.isdisjoint(name for name, _ in first)


def test_composed_steps_of_one_bucket_are_the_same_operations(prefilled):
    packed, _, _ = prefilled(static=True, mode="composed")
    step = [packed.work(row, 2 + 5 * row, [1], {"t1": 1.0}) for row in range(8)]
    assert operations(packed, step[:5]) == operations(packed, step[1:])


def test_without_static_shapes_they_differ(prefilled):
    packed, _, step = prefilled(static=False)
    assert operations(packed, step[:5]) != operations(packed, step[:7])


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("count", [1, 3, 6, 8])
def test_repeated_rows_change_no_answer(prefilled, zoo, family, count):
    packed, prompts, step = prefilled(static=True, family=family)
    found = packed.run(step[8 - count :])
    assert len(found) == count
    for row, logits in zip(range(8 - count, 8), found, strict=True):
        reference = zoo("full", family).reference(MIXTURES[row % 5])
        assert distance(logits, last_logits(reference, prompts[row])) < 1e-4


@given(st.integers(1, 5000))
def test_buckets_waste_little(rows):
    bucket = round_rows(rows)
    assert rows <= bucket < rows + 8
    assert bucket in (1, 2, 4) or bucket % 8 == 0
    assert round_rows(bucket) == bucket
