"""Task arithmetic against mergekit on the same tensors."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from compress.errors import InputError
from compress.merging import METHODS
from compress.merging.method import add_scaled


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "layers.0.weight": torch.randn(17, 9, generator=generator),
        "norm.weight": torch.randn(9, generator=generator),
    }


def ours(base, tuned, scalings):
    return {
        name: add_scaled(weight, ((s, t[name] - weight) for s, t in zip(scalings, tuned, strict=True)))
        for name, weight in base.items()
    }


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="mergekit cannot be installed there yet")
@pytest.mark.parametrize("scalings", [(0.3, 0.3, 0.3), (0.1, 0.7, 1.2), (0.0, 1.0, -0.5)])
def test_equals_mergekit(scalings):
    from mergekit.merge_methods import merge_state_dicts

    base, tuned = tensors(0), [tensors(i) for i in (1, 2, 3)]
    theirs = merge_state_dicts(
        {"base": base} | {f"t{i}": t for i, t in enumerate(tuned)},
        "task_arithmetic",
        base="base",
        parameters={"weight": {f"t{i}": s for i, s in enumerate(scalings)}, "normalize": False},
    )
    for name, merged in ours(base, tuned, scalings).items():
        torch.testing.assert_close(merged, theirs[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scalings", [(0.3, 0.3, 0.3), (0.1, 0.7, 1.2), (0.0, 1.0, -0.5)])
def test_equals_the_papers_formula_in_float64(scalings):
    base, tuned = tensors(0), [tensors(i) for i in (1, 2, 3)]
    for name, merged in ours(base, tuned, scalings).items():
        start = base[name].double().numpy()
        expected = start + sum(
            s * (t[name].double().numpy() - start) for s, t in zip(scalings, tuned, strict=True)
        )
        np.testing.assert_allclose(merged.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_base_is_not_changed_in_place():
    base = tensors(0)["norm.weight"]
    kept = base.clone()
    add_scaled(base, iter([(1.0, torch.ones(9))]))
    assert torch.equal(base, kept)


def test_scaling_per_task_must_name_every_task():
    method = METHODS["task_arithmetic"]
    parameters = method.parameters(scaling={"a": 0.2, "c": 0.1})
    with pytest.raises(InputError, match=r"shared\.scaling.*b, c"):
        method.coefficients(["a", "b"], parameters)
    assert method.coefficients(["a", "c"], parameters) == {"a": 0.2, "c": 0.1}
