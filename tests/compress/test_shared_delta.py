"""Shared bases that no sum of experts is: exact beside adapters, the base itself beside full fine-tunes."""

from __future__ import annotations

import pytest
import torch

from compress.bundle import Bundle
from compress.compose import factor_weights, load_composed
from compress.errors import InputError
from compress.grow import remerged
from compress.inputs import open_inputs
from compress.merge import Merger, MergeSource
from compress.recipe import read_recipe
from tests import tiny
from tests.bundles import build_bundle, write_recipe

METHODS = {"ties": {"density": 0.3}, "ties_per_tensor": {}, "dare": {}, "tsv": {}}


def made(folder, kind: str, method: str, family="llama", **exclusive) -> Bundle:
    base = tiny.save_base(folder / "base", family)
    for i in range(3):
        if kind == "adapter":
            tiny.save_adapter(folder / f"t{i}", base, i, target_modules="all-linear")
        else:
            tiny.save_finetune(folder / f"t{i}", base, i)
    path = write_recipe(
        folder / "recipe.yaml",
        base=str(folder / "base"),
        experts=[{"task": f"t{i}", "checkpoint": str(folder / f"t{i}")} for i in range(3)],
        shared={"method": method, **METHODS[method]},
        exclusive=exclusive or {"rank": 99},
    )
    return build_bundle(path, folder / "bundle")


def merged(bundle: Bundle) -> dict[str, torch.Tensor]:
    """The merge itself, of the checkpoints."""
    recipe = read_recipe(bundle.path.parent / "recipe.yaml")
    inputs = open_inputs(recipe)
    merger = Merger(
        recipe.shared.merging, recipe.shared.parameters, MergeSource(inputs.base, inputs.finetunes)
    )
    return {name: merger.merged(name) for name in inputs.base.table}


def composed(bundle: Bundle, mixture: dict[str, float]) -> dict[str, torch.Tensor]:
    weights = factor_weights(mixture, bundle.carried, bundle.scalings)
    return dict(load_composed(bundle, weights).named_parameters())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("kind", "exclusive"), [("adapter", {}), ("full", {}), ("full", {"rank": 99, "reference": "pretrained"})]
)
def test_every_mixture_is_exact(tmp_path, family, method, kind, exclusive):
    """``W(w) = W_s + sum w_t (W_t - W_s)``, with W_s as the method merged it."""
    bundle = made(tmp_path, kind, method, family, **exclusive)
    shared = merged(bundle)
    inputs = open_inputs(read_recipe(tmp_path / "recipe.yaml"))
    source = MergeSource(inputs.base, inputs.finetunes)
    for mixture in ({}, {"t1": 1.0}, {"t0": 0.25, "t2": 0.5}):
        for name, weight in composed(bundle, mixture).items():
            (group,) = source.groups(name, whole=True)
            expected = shared[name].double()
            for task, w in mixture.items():
                expected = expected + w * (group.base + group.vectors[task] - shared[name]).double()
            scale = max(float(expected.abs().max()), 1.0)
            torch.testing.assert_close(weight.double(), expected, rtol=0, atol=2e-5 * scale)


def test_what_a_bundle_says_of_it(tmp_path):
    bundle = made(tmp_path, "adapter", "ties")
    assert bundle.tasks == ["t0", "t1", "t2"] and bundle.carried == ["t0", "t1", "t2", "shared"]
    assert bundle.manifest.experts["shared"].kind == "merge"
    assert (tmp_path / "bundle" / "shared" / "shared.json").is_file()
    assert not (tmp_path / "bundle" / "experts" / "shared").exists()
    with pytest.raises(InputError, match="unknown task 'shared'"):
        from compress.compose import check_mixture

        check_mixture({"shared": 1.0}, bundle.tasks, True)
    with pytest.raises(InputError, match="merged by ties, which is no sum"):
        remerged(tmp_path / "bundle", bundle.manifest)


def test_another_shared_delta_is_another_fingerprint(tmp_path):
    first, second = made(tmp_path / "a", "adapter", "ties"), made(tmp_path / "b", "adapter", "dare")
    assert first.fingerprint != second.fingerprint


def test_low_rank_merges_of_adapters_stay_low_rank(tmp_path):
    """Three adapters of rank 4: the merged delta has rank 12, and is factors where those are smaller."""
    bundle = made(tmp_path, "adapter", "tsv")
    expert = bundle.expert("shared", bundle.table())
    for name, parameter in bundle.table().items():
        factors = expert.low_rank(name) if parameter.is_matrix else None
        if factors is not None and 12 * sum(parameter.shape) < torch.Size(parameter.shape).numel():
            assert factors.rank <= 12


def test_full_fine_tunes_become_deltas_of_the_merge(tmp_path):
    bundle = made(tmp_path, "full", "ties")
    assert bundle.manifest.reference == "shared" and bundle.carried == bundle.tasks
    for name, weight in merged(bundle).items():
        torch.testing.assert_close(composed(bundle, {})[name], weight, rtol=0, atol=1e-6)
