"""RegMean: the optimum of its objective, its special cases, and too little data."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from compress.checkpoints import Checkpoint
from compress.errors import InputError
from compress.finetunes import open_finetune
from compress.gathering import gather_grams
from compress.grams import Grams
from compress.inputs import open_inputs
from compress.merge import Merger, MergeSource
from compress.merging import METHODS
from compress.merging.regmean import RegMeanParameters, conditioned, minimiser, objective
from compress.recipe import read_recipe
from tests import tiny
from tests.bundles import silent, write_recipe


def problem(seed: int, count: int, d_out: int, d_in: int, tokens: int):
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(d_out, d_in, generator=generator, dtype=torch.float64) for _ in range(count)]
    inputs = [torch.randn(tokens, d_in, generator=generator, dtype=torch.float64) for _ in range(count)]
    return maps, [x.T @ x / tokens for x in inputs]


def gradient(merged, maps, grams):
    return sum(2 * (merged - w) @ g for w, g in zip(maps, grams, strict=True))


@given(
    st.integers(0, 99),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 9),
    st.integers(1, 20),
    st.sampled_from([0.0, 0.1, 0.9, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_it_reaches_the_optimum(seed, count, d_out, d_in, tokens, alpha):
    maps, grams = problem(seed, count, d_out, d_in, tokens)
    grams = [conditioned(g, alpha, 1e-3) for g in grams]
    merged = minimiser(maps, grams)
    scale = sum(float((w @ g).norm()) for w, g in zip(maps, grams, strict=True))
    assert float(gradient(merged, maps, grams).norm()) <= 1e-6 * scale
    best = objective(merged, maps, grams)
    others = [*maps, torch.stack(maps).mean(0), merged + 0.01 * torch.randn_like(merged)]
    assert all(best <= objective(other, maps, grams) + 1e-9 for other in others)


def test_special_cases():
    maps, grams = problem(0, 3, 4, 5, 40)
    torch.testing.assert_close(minimiser(maps[:1], grams[:1]), maps[0])
    torch.testing.assert_close(minimiser(maps, [grams[0]] * 3), torch.stack(maps).mean(0))
    torch.testing.assert_close(minimiser([maps[0]] * 3, grams), maps[0])
    # Without off-diagonals every column is a weighted mean.
    diagonals = [conditioned(g, 0.0, 1e-12) for g in grams]
    weights = torch.stack([g.diagonal() for g in diagonals])
    mean = (torch.stack(maps) * weights[:, None]).sum(0) / weights.sum(0)
    torch.testing.assert_close(minimiser(maps, diagonals), mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_few_tokens_stay_bounded(tokens):
    """Far fewer tokens than inputs: without conditioning the solution would be anything."""
    maps, grams = problem(1, 3, 8, 64, tokens)
    largest = max(float(w.abs().max()) for w in maps)
    default = RegMeanParameters(prompts="x")
    merged = minimiser(maps, [conditioned(g, default.alpha, default.ridge) for g in grams])
    assert float(merged.abs().max()) <= 3 * largest
    # What no prompt has touched is the average.
    probe = torch.linalg.svd(torch.cat([torch.linalg.cholesky(g + 1e-9 * torch.eye(64)) for g in grams], 1))[
        0
    ]
    for g in grams:
        conditioned_one = conditioned(g, 1.0, 1e-3)
        assert torch.linalg.eigvalsh(conditioned_one)[0] > 0
    assert probe.shape == (64, 64)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"grams": "a", "prompts": "b"},
        {"grams": "a", "alpha": 1.5},
        {"grams": "a", "alpha": -0.1},
        {"grams": "a", "ridge": 0},
    ],
)
def test_wrong_settings(content):
    with pytest.raises(ValidationError):
        RegMeanParameters(**content)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Three fine-tunes, adapters and full, with their Gram matrices."""
    folder = tmp_path_factory.mktemp("regmean")
    base = tiny.save_base(folder / "base")
    opened = Checkpoint.open(folder / "base")
    for i, kind in enumerate(("full", "full", "adapter")):
        if kind == "full":
            tiny.save_finetune(folder / f"t{i}", base, i)
        else:
            tiny.save_adapter(folder / f"t{i}", base, i, target_modules="all-linear")
        prompts = [tiny.prompt(10 * i + j, 40) for j in range(8)]
        finetune = open_finetune(folder / f"t{i}", opened)
        gather_grams(finetune, opened, prompts, folder / "grams" / f"t{i}", stage="", progress=silent)
    return folder


def recipe(zoo, path, **shared):
    return write_recipe(
        path,
        base=str(zoo / "base"),
        experts=[{"task": f"t{i}", "checkpoint": str(zoo / f"t{i}")} for i in range(3)],
        shared=shared,
    )


def merged_weights(path, gathered=None):
    read = read_recipe(path)
    inputs = open_inputs(read)
    source = MergeSource(inputs.base, inputs.finetunes, path.parent, gathered)
    merger = Merger(read.shared.merging, read.shared.parameters, source)
    return {name: merger.merged(name) for name in inputs.base.table}, inputs


def test_no_other_method_comes_nearer_to_the_fine_tunes_outputs(zoo, tmp_path):
    ours, inputs = merged_weights(
        recipe(zoo, tmp_path / "r.yaml", method="regmean", grams=str(zoo / "grams"))
    )
    grams = {task: Grams(zoo / "grams" / task) for task in inputs.finetunes}
    source = MergeSource(inputs.base, inputs.finetunes)

    def total(weights) -> float:
        found = 0.0
        for name, weight in weights.items():
            (group,) = source.groups(name, whole=True)
            if grams["t0"].gram(group.parameter.module) is None:
                continue
            conditioned_grams = [conditioned(grams[t].gram(group.parameter.module), 0.9, 1e-3) for t in grams]
            maps = [group.base + v for v in group.vectors.values()]
            found += objective(weight, maps, conditioned_grams)
        return found

    best = total(ours)
    for name, method in METHODS.items():
        if method.data is None:
            extra = {"general": "t0", "omega": 0.5} if name == "merge_to_learn" else {}
            other, _ = merged_weights(recipe(zoo, tmp_path / f"{name}.yaml", method=name, **extra))
            assert best < total(other)
    for name, weight in ours.items():
        if inputs.base.table[name].kind in ("vector", "embedding"):
            mean = torch.stack(
                [v for v in next(iter(source.groups(name, whole=True))).vectors.values()]
            ).mean(0)
            torch.testing.assert_close(weight, inputs.base.weight(name) + mean)


def test_grams_of_another_model(zoo, tmp_path):
    swapped = tmp_path / "grams"
    swapped.mkdir()
    for i in range(3):
        (swapped / f"t{i}").symlink_to(zoo / "grams" / f"t{(i + 1) % 3}")
    with pytest.raises(InputError, match="gather them anew"):
        merged_weights(recipe(zoo, tmp_path / "r.yaml", method="regmean", grams=str(swapped)))


def test_a_task_without_grams(zoo, tmp_path):
    with pytest.raises(InputError, match="twinserve gram"):
        merged_weights(recipe(zoo, tmp_path / "r.yaml", method="regmean", grams=str(zoo)))
    with pytest.raises(InputError, match="no such folder"):
        merged_weights(recipe(zoo, tmp_path / "r.yaml", method="regmean", grams="nowhere"))
