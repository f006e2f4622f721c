"""What every merge method promises, and each one's formula computed independently in float64."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import InputError
from compress.merging import METHODS
from compress.merging.dare import DareParameters, dare, mask
from compress.merging.method import Group
from compress.merging.tsv import TsvParameters, nearest_orthonormal, tsv
from compress.parameters import Kind, Parameter

SHAPES = {"layers.0.weight": (17, 9), "layers.1.weight": (8, 12), "norm.weight": (9,)}
NEEDED = {"merge_to_learn": {"general": "t0", "omega": 0.5}}
DATALESS = [name for name, method in METHODS.items() if method.data is None]


def parameter(name: str, shape: tuple[int, ...]) -> Parameter:
    kind = Kind.VECTOR if len(shape) == 1 else Kind.LINEAR
    return Parameter(name, shape, kind, name.removesuffix(".weight"))


class Memory:
    """A source of tensors in memory, in stretches of a few elements."""

    def __init__(self, base: dict, tuned: dict[str, dict], stretch: int = 23) -> None:
        self.table = {name: parameter(name, tuple(t.shape)) for name, t in base.items()}
        self.base, self.tuned, self.stretch = base, tuned, stretch

    @property
    def tasks(self) -> list[str]:
        return list(self.tuned)

    def whole(self, name: str) -> Group:
        base = self.base[name].float()
        return Group(self.table[name], base, {t: w[name].float() - base for t, w in self.tuned.items()})

    def groups(self, name: str) -> Iterator[Group]:
        whole = self.whole(name)
        flat = whole.base.reshape(-1)
        for start in range(0, flat.numel(), self.stretch):
            cut = slice(start, start + self.stretch)
            vectors = {task: v.reshape(-1)[cut].clone() for task, v in whole.vectors.items()}
            yield Group(whole.parameter, flat[cut].clone(), vectors, start)

    def vector(self, task: str, name: str) -> Iterator[tuple[int, torch.Tensor]]:
        for group in self.groups(name):
            yield group.start, group.vectors[task]


def tensors(seed: int, dtype=torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


def source(tasks: int = 3, dtype=torch.float32) -> Memory:
    base = tensors(0, dtype)
    return Memory(base, {f"t{i}": tensors(i + 1, dtype) for i in range(tasks)})


def merged(name: str, inputs: Memory, **given) -> dict[str, torch.Tensor]:
    method = METHODS[name]
    chosen = method.parameters(**(NEEDED.get(name, {}) | given))
    method.check(inputs.tasks, chosen)
    facts = method.survey(inputs, chosen) if method.survey else None
    return {key: method.merge(inputs.whole(key), chosen, facts) for key in inputs.table}


@pytest.mark.parametrize("name", DATALESS)
def test_inputs_are_not_changed_and_results_do_not_depend_on_the_run(name):
    inputs = source()
    first, second = merged(name, inputs), merged(name, inputs)
    for key in inputs.table:
        assert torch.equal(first[key], second[key]) and first[key].shape == inputs.base[key].shape
        group = inputs.whole(key)
        kept = {task: v.clone() for task, v in group.vectors.items()}
        method = METHODS[name]
        chosen = method.parameters(**NEEDED.get(name, {}))
        facts = method.survey(inputs, chosen) if method.survey else None
        method.merge(group, chosen, facts)
        assert torch.equal(group.base, inputs.base[key])
        assert all(torch.equal(v, kept[task]) for task, v in group.vectors.items())


@pytest.mark.parametrize("name", DATALESS)
def test_fine_tunes_that_are_the_base_give_the_base(name):
    base = tensors(0)
    for key, weight in merged(name, Memory(base, {"t0": base, "t1": base})).items():
        assert torch.equal(weight, base[key])


@pytest.mark.parametrize("name", [n for n in DATALESS if METHODS[n].scope == "element"])
def test_stretches_make_the_whole(name):
    inputs = source()
    method = METHODS[name]
    chosen = method.parameters(**NEEDED.get(name, {}))
    facts = method.survey(inputs, chosen) if method.survey else None
    for key in inputs.table:
        parts = [method.merge(group, chosen, facts).reshape(-1) for group in inputs.groups(key)]
        assert torch.equal(torch.cat(parts), method.merge(inputs.whole(key), chosen, facts).reshape(-1))


@pytest.mark.parametrize("name", [n for n in DATALESS if n not in ("dare", "merge_to_learn")])
def test_the_order_of_fine_tunes_does_not_matter(name):
    inputs = source()
    turned = Memory(inputs.base, dict(reversed(inputs.tuned.items())))
    for key, weight in merged(name, inputs).items():
        torch.testing.assert_close(weight, merged(name, turned)[key], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in DATALESS if METHODS[n].keeps_low_rank])
def test_low_rank_task_vectors_give_low_rank_deltas(name):
    base = tensors(0)
    low = {}
    for i in range(3):
        torch.manual_seed(i)
        low[f"t{i}"] = {
            key: w + (torch.randn(w.shape[0], 1) @ torch.randn(1, w.shape[1]) if w.dim() == 2 else 0)
            for key, w in base.items()
        }
    for key, weight in merged(name, Memory(base, low)).items():
        if weight.dim() == 2:
            values = torch.linalg.svdvals(weight - base[key])
            assert values[2] > 1e-3 and values[3] < 1e-4


def test_average_is_the_mean_of_the_weights():
    inputs = source()
    weights = {"t0": 1.0, "t1": 2.0, "t2": 5.0}
    for key, weight in merged("average", inputs, weight=weights).items():
        mean = sum(w / 8 * inputs.tuned[t][key].double() for t, w in weights.items())
        torch.testing.assert_close(weight.double(), mean, rtol=1e-6, atol=1e-6)


def test_merge_to_learn():
    inputs = source()
    general, pre = inputs.tuned["t0"], inputs.base
    for omega in (0.0, 0.4, 1.0):
        for key, weight in merged("merge_to_learn", inputs, omega=omega).items():
            skills = sum(omega * (inputs.tuned[t][key].double() - pre[key].double()) for t in ("t1", "t2"))
            torch.testing.assert_close(weight.double(), general[key] + skills, rtol=1e-5, atol=1e-5)
            if omega == 0:
                torch.testing.assert_close(weight, general[key], rtol=1e-6, atol=1e-6)


def test_merge_to_learn_weighs_by_examples():
    method = METHODS["merge_to_learn"]
    chosen = method.parameters(general="g", examples={"g": 400, "a": 100, "b": 20})
    assert method.coefficients(["g", "a", "b"], chosen) == {"g": 1.0, "a": 0.25, "b": 0.05}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"general": "x", "omega": 0.5}, "'x' is none of the tasks"),
        ({"general": "g", "examples": {"g": 5}}, "differs in a"),
        ({"general": "g", "omega": {"b": 1.0}}, "differs in a, b"),
    ],
)
def test_merge_to_learn_refuses(content, sentence):
    method = METHODS["merge_to_learn"]
    with pytest.raises(InputError, match=sentence):
        method.check(["g", "a"], method.parameters(**content))


def ties_reference(base, tuned, density, scaling, per_tensor):
    """Written from the paper and the authors' notebook, in float64 over one long vector."""
    names = list(base)
    tau = np.stack(
        [np.concatenate([(w[n] - base[n]).numpy().astype(np.float64).ravel() for n in names]) for w in tuned]
    )
    trimmed = np.zeros_like(tau)
    for row, vector in enumerate(tau):
        cut = np.sort(np.abs(vector))[len(vector) - int(len(vector) * density) - 1]
        trimmed[row] = np.where(np.abs(vector) >= cut, vector, 0)
    signs = np.sign(trimmed.sum(0))
    signs[signs == 0] = np.sign(signs.sum())
    agreeing = np.where(signs > 0, trimmed > 0, trimmed < 0) * trimmed
    mean = agreeing.sum(0) / np.maximum((agreeing != 0).sum(0), 1)
    flat = np.concatenate([base[n].numpy().astype(np.float64).ravel() for n in names]) + scaling * mean
    out, at = {}, 0
    for n in names:
        out[n] = flat[at : at + base[n].numel()].reshape(base[n].shape)
        at += base[n].numel()
    return out


@pytest.mark.parametrize("density", [0.05, 0.2, 0.9])
@pytest.mark.parametrize("rounded", [False, True])
def test_ties_is_the_papers(density, rounded):
    """Rounded to quarters: equal magnitudes at the cut, and vectors that cancel exactly."""
    inputs = source()
    if rounded:
        quarters = {n: (4 * w).round() / 4 for n, w in inputs.base.items()}
        tuned = {t: {n: (4 * w).round() / 4 for n, w in m.items()} for t, m in inputs.tuned.items()}
        inputs = Memory(quarters, tuned)
    expected = ties_reference(inputs.base, list(inputs.tuned.values()), density, 0.7, False)
    for name, weight in merged("ties", inputs, density=density, scaling=0.7).items():
        np.testing.assert_allclose(weight.numpy(), expected[name], rtol=1e-5, atol=1e-5)


def test_ties_trims_over_the_whole_model():
    base = {"small": torch.zeros(10), "large": torch.zeros(10)}
    tuned = {"small": torch.linspace(0.01, 0.02, 10), "large": torch.linspace(1, 2, 10)}
    weights = merged("ties", Memory(base, {"t0": tuned}), density=0.4)
    assert not weights["small"].any() and int((weights["large"] != 0).sum()) == 9
    weights = merged("ties_per_tensor", Memory(base, {"t0": tuned}), density=0.5)
    assert int((weights["small"] != 0).sum()) == int((weights["large"] != 0).sum()) == 5


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="mergekit cannot be installed there yet")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("normalize", [True, False])
def test_ties_per_tensor_is_mergekits(dtype, normalize):
    """bfloat16 inputs: many magnitudes are equal at the cut, and the same ones must go."""
    from mergekit.merge_methods import merge_state_dicts

    inputs = source(dtype=dtype)
    weights, densities = {"t0": 0.3, "t1": 0.9, "t2": -0.4}, {"t0": 0.2, "t1": 0.5, "t2": 1.0}
    theirs = merge_state_dicts(
        {"base": inputs.base, **inputs.tuned},
        "ties",
        base="base",
        parameters={"weight": weights, "density": densities, "normalize": normalize, "lambda": 0.8},
        dtype=torch.float32,
    )
    ours = merged(
        "ties_per_tensor", inputs, weight=weights, density=densities, normalize=normalize, scaling=0.8
    )
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name].float(), rtol=1e-6, atol=1e-6)


def test_dare_is_unbiased_and_sparse():
    group = source(1).whole("layers.0.weight")
    chosen = DareParameters(density=0.25, scaling=1.0)
    total = torch.zeros_like(group.base)
    for seed in range(400):
        delta = dare(group, chosen.model_copy(update={"seed": seed}), None) - group.base
        kept = delta.abs() > 1e-5
        assert 0.05 < kept.float().mean() < 0.5
        torch.testing.assert_close(delta[kept], 4 * group.vectors["t0"][kept], rtol=1e-4, atol=1e-4)
        total += delta
    assert (total / 400 - group.vectors["t0"]).abs().mean() < 0.12


def test_dares_masks_differ_by_task_and_parameter():
    shape, density = torch.Size((40, 40)), 0.5
    first = mask(0, "a", "x", shape, density)
    assert torch.equal(first, mask(0, "a", "x", shape, density))
    for other in (
        mask(0, "b", "x", shape, density),
        mask(0, "a", "y", shape, density),
        mask(1, "a", "x", shape, density),
    ):
        assert 0.4 < (first == other).float().mean() < 0.6


def test_tsv_is_the_papers():
    inputs = source()
    for name in ("layers.0.weight", "layers.1.weight"):
        group = inputs.whole(name)
        keep = min(group.base.shape) // 3
        parts = [np.linalg.svd(v.double().numpy(), full_matrices=False) for v in group.vectors.values()]
        u, _, ut = np.linalg.svd(np.concatenate([p[0][:, :keep] for p in parts], 1), full_matrices=False)
        v, _, vt = np.linalg.svd(np.concatenate([p[2][:keep] for p in parts], 0), full_matrices=False)
        sigma = np.concatenate([p[1][:keep] for p in parts])
        expected = group.base.double().numpy() + (u @ ut) @ np.diag(sigma) @ (v @ vt)
        np.testing.assert_allclose(tsv(group, TsvParameters(), None).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_tsv_of_one_task_at_full_rank_is_the_fine_tune():
    group = source(1).whole("layers.0.weight")
    torch.testing.assert_close(
        tsv(group, TsvParameters(), None), group.base + group.vectors["t0"], rtol=1e-4, atol=1e-4
    )


@given(st.integers(2, 9), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=25)
def test_nearest_orthonormal(rows, columns, seed):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    near = nearest_orthonormal(matrix)
    gram = near.T @ near if columns <= rows else near @ near.T
    torch.testing.assert_close(gram, torch.eye(len(gram)), rtol=1e-4, atol=1e-4)
    for other in range(5):
        q, _ = torch.linalg.qr(
            torch.randn(
                max(rows, columns), min(rows, columns), generator=torch.Generator().manual_seed(other)
            )
        )
        q = q if columns <= rows else q.T
        assert (matrix - near).norm() <= (matrix - q).norm() + 1e-4


@pytest.mark.parametrize("name", METHODS)
def test_every_method_names_itself_its_paper_and_formula(name):
    method = METHODS[name]
    assert method.name == name and method.paper.startswith("https://arxiv.org/abs/") and method.formula
    assert all(getattr(method, field.name) is not None for field in dataclasses.fields(method)[:6])
    with pytest.raises(ValueError, match="extra"):
        method.parameters(**NEEDED.get(name, {}), nonsense=1)


@pytest.mark.parametrize("name", [n for n in DATALESS if n != "merge_to_learn"])
def test_tables_must_name_every_task(name):
    method = METHODS[name]
    for key, field in method.parameters.model_fields.items():
        if "dict" in str(field.annotation):
            chosen = method.parameters(**{key: {"a": 0.5, "c": 0.5}})
            with pytest.raises(InputError, match=rf"shared\.{key}.*b, c"):
                method.check(["a", "b"], chosen)
