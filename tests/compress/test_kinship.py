"""Kinship, sign conflict and energy against numpy on whole vectors; groups, predicted loss, the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import compress.merge
import compress.tensorfiles
from compress.build import build
from compress.bundle import Bundle, create, seal
from compress.compose import factor_weights, load_composed
from compress.grouping import groups, merge_order
from compress.inputs import open_inputs
from compress.kinship import CHUNK, Overlap, kind_of, layer_of, measure, overlap, reader
from compress.kinshipreport import section
from compress.predictedloss import beside_measured, linear_errors, merged_errors
from compress.recipe import read_recipe
from compress.report import write_report
from compress.workspace import workspace
from tests import tiny
from tests.bundles import silent, write_recipe


def reference(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosine, conflict and conflict by count of [K, n] float64, pair by pair."""
    shape = (len(vectors),) * 2
    cosine, conflict, count = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for i, a in enumerate(vectors):
        for j, b in enumerate(vectors):
            length = np.linalg.norm(a) * np.linalg.norm(b)
            cosine[i, j] = a @ b / length if length else 0.0
            product = a * b
            if i != j and product.any():
                conflict[i, j] = np.abs(product[product < 0]).sum() / np.abs(product).sum()
                count[i, j] = (product < 0).sum() / (product != 0).sum()
    return cosine, conflict, count


def sums(rows) -> Overlap:
    return overlap([torch.as_tensor(row, dtype=torch.float32) for row in rows])


def test_sums_are_those_of_numpy_over_several_chunks():
    generator = np.random.default_rng(1)
    vectors = generator.standard_normal((4, 2 * CHUNK + 77)).astype(np.float32)
    vectors[1, ::3] = 0
    vectors[2] += 0.3 * vectors[0]
    found = sums(vectors)
    for ours, theirs in zip(
        (found.cosine(), found.conflict(), found.conflict_count()),
        reference(vectors.astype(np.float64)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.energy, np.square(vectors.astype(np.float64)).sum(1), rtol=1e-12)


def test_special_directions():
    v = torch.tensor([1.0, -2.0, 0.5, 0.0])
    found = overlap([v, -v, 3 * v, v.clone(), torch.tensor([2.0, 1.0, 0.0, 5.0]), torch.zeros(4), None])
    cosine, conflict = found.cosine(), found.conflict()
    np.testing.assert_allclose(cosine[0], [1, -1, 1, 1, 0, 0, 0], atol=1e-15)
    np.testing.assert_allclose(conflict[0], [0, 1, 0, 0, 0.5, 0, 0], atol=1e-15)
    assert not cosine[5:].any() and not conflict[5:].any()
    np.testing.assert_array_equal(np.diagonal(cosine), [1, 1, 1, 1, 1, 0, 0])


def test_smallest_and_largest_numbers():
    """Squares that a float32 does not hold."""
    found = sums([[1e-30, 1e-30], [-1e-30, -1e-30], [1e30, 0.0], [1e-42, 1e-42]]).cosine()
    np.testing.assert_allclose(found[0], [1, -1, 0.5**0.5, 1], rtol=1e-6)


FLOATS = st.floats(-1e3, 1e3, width=32).map(lambda x: x if abs(x) > 1e-3 else 0.0)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=FLOATS),
    st.lists(st.floats(0.01, 100), min_size=5, max_size=5),
    st.integers(1, 40),
)
def test_properties(vectors, scales, cut):
    whole = sums(vectors)
    scaled = sums(vectors.astype(np.float64) * np.array(scales)[: len(vectors), None])
    pieces = sums(vectors[:, :cut]) + sums(vectors[:, cut:])
    for name in ("cosine", "conflict", "conflict_count"):
        matrix = getattr(whole, name)()
        assert np.isfinite(matrix).all() and (np.abs(matrix) <= 1).all()
        np.testing.assert_array_equal(matrix, matrix.T)
        np.testing.assert_allclose(getattr(pieces, name)(), matrix, atol=1e-9)
        np.testing.assert_allclose(getattr(scaled, name)(), matrix, atol=1e-5)
    opposite = overlap([torch.from_numpy(vectors[0]), torch.from_numpy(-vectors[0])]).cosine()[0, 1]
    assert opposite == (pytest.approx(-1) if vectors[0].any() else 0)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """A full fine-tune, a copy of it, an adapter with head and biases replaced, and one that is the base."""
    folder = tmp_path_factory.mktemp("mixed")
    base = tiny.save_base(folder / "base", "qwen2")
    tiny.save_finetune(folder / "full", base, 1)
    tiny.save_finetune(folder / "copy", base, 1)
    tiny.save_adapter(
        folder / "adapter",
        base,
        2,
        target_modules=["q_proj", "embed_tokens"],
        bias="all",
        modules_to_save=["lm_head"],
    )
    tiny.save_finetune(folder / "same", base, 3, scale=0.0)
    write_recipe(
        folder / "recipe.yaml",
        base=str(folder / "base"),
        experts=[{"task": t, "checkpoint": str(folder / t)} for t in ("full", "copy", "adapter", "same")],
        shared={"scaling": {"full": 0.2, "copy": 0.3, "adapter": 0.6, "same": 1.0}},
        exclusive={"rank": 2},
    )
    return folder


def built(recipe: Path, out: Path) -> tuple[Bundle, dict]:
    with workspace(out, "") as work, create(out) as folder:
        manifest, report = build(
            read_recipe(recipe), folder, work, relative_to=recipe.parent, progress=silent
        )
        write_report(folder, manifest, report)
        seal(folder, manifest)
    return Bundle.open(out), report


def dense(folder: Path) -> dict[str, np.ndarray]:
    """Task vectors by transformers and PEFT, parameter by parameter, float64: nothing of the product."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def load(name: str) -> dict[str, np.ndarray]:
        if (folder / name / "adapter_config.json").is_file():
            model = AutoModelForCausalLM.from_pretrained(folder / "base")
            model = PeftModel.from_pretrained(model, folder / name).merge_and_unload()
        else:
            model = AutoModelForCausalLM.from_pretrained(folder / name)
        return {n: p.detach().double().numpy() for n, p in model.named_parameters()}

    base = load("base")
    return {
        name: {n: w - base[n] for n, w in load(name).items()} for name in ("full", "copy", "adapter", "same")
    }


def test_adapters_and_full_checkpoints_in_one_bundle(mixed, tmp_path):
    bundle, report = built(mixed / "recipe.yaml", tmp_path / "bundle")
    found, vectors = report["kinship"], dense(mixed)
    assert found["tasks"] == list(vectors)
    flat = np.array([np.concatenate([part.ravel() for part in v.values()]) for v in vectors.values()])
    cosine, conflict, count = reference(flat)
    np.testing.assert_allclose(found["cosine"], cosine, atol=2e-6)
    np.testing.assert_allclose(found["conflict"], conflict, atol=2e-6)
    # Elements that rounding alone moves, or not, have signs of their own.
    np.testing.assert_allclose(found["conflict_by_count"], count, atol=2e-3)
    assert found["cosine"][0][1] == 1.0 and found["cosine"][3] == [0, 0, 0, 0]
    names = {
        "q_proj": lambda n: "q_proj.weight" in n,
        "bias": lambda n: n.endswith(".bias"),
        "norm": lambda n: "norm" in n,
        "embedding": lambda n: "embed" in n,
    }
    for kind, belongs in names.items():
        part = np.array(
            [np.concatenate([w.ravel() for n, w in v.items() if belongs(n)]) for v in vectors.values()]
        )
        np.testing.assert_allclose(found["kinds"][kind], reference(part)[0], atol=2e-6)
        energies = np.square(part).sum(1)
        for i, (task, facts) in enumerate(found["energy"].items()):
            whole = np.square(flat[i]).sum()
            assert facts["total"] == pytest.approx(whole, rel=1e-5)
            assert facts["kinds"][kind] == pytest.approx(energies[i] / whole if whole else 0, abs=2e-6), task
    assert list(found["layers"]) == ["0", "1", "outside"]
    for facts in list(found["energy"].values())[:3]:
        assert sum(facts["layers"].values()) == pytest.approx(1, abs=1e-5)
    scalings = np.array([0.2, 0.3, 0.6, 1.0])
    for i, task in enumerate(("full", "copy", "adapter")):
        error = np.square(scalings @ flat - flat[i]).sum() / np.square(flat[i]).sum()
        assert found["loss"][task]["static"] == pytest.approx(error, rel=1e-5)
        assert found["loss"][task]["expert"] == pytest.approx(
            1 - bundle.manifest.experts[task].kept, abs=1e-6
        )
    assert found["loss"]["same"] == {"static": None, "expert": None}
    assert found["loss"]["adapter"]["expert"] == 0 < found["loss"]["full"]["expert"]


def test_stretches_and_threads_do_not_matter(mixed, monkeypatch):
    inputs = open_inputs(read_recipe(mixed / "recipe.yaml"))
    read = reader(inputs.base, inputs.finetunes.values())
    seen: list[tuple[str, int, int]] = []
    whole = measure(inputs.finetunes, inputs.base.table, read, lambda *at: seen.append(at))
    assert seen[-1] == ("kinship", len(inputs.base.table), len(inputs.base.table))
    monkeypatch.setattr(compress.tensorfiles, "STRETCH", 100)
    pieces = measure(inputs.finetunes, inputs.base.table, read, silent)
    for ours, theirs in zip(
        [pieces.whole, *pieces.layers.values(), *pieces.kinds.values()],
        [whole.whole, *whole.layers.values(), *whole.kinds.values()],
        strict=True,
    ):
        np.testing.assert_allclose(ours.cosine(), theirs.cosine(), atol=1e-5)
        np.testing.assert_allclose(ours.energy, theirs.energy, rtol=1e-5)


def test_building_twice_gives_the_same_bytes(mixed, tmp_path):
    pages = []
    for name in ("a", "b"):
        built(mixed / "recipe.yaml", tmp_path / name)
        pages.append([(tmp_path / name / f"report.{end}").read_bytes() for end in ("json", "html")])
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    ("kind", "method", "where"),
    [("adapter", "ties", "pretrained"), ("full", "ties", "shared"), ("full", "task_arithmetic", "shared")],
)
def test_predicted_loss_of_any_merge_is_the_distance_of_its_weights(tmp_path, kind, method, where):
    base = tiny.save_base(tmp_path / "base")
    for i in range(3):
        if kind == "adapter":
            tiny.save_adapter(tmp_path / f"t{i}", base, i, target_modules="all-linear")
        else:
            tiny.save_finetune(tmp_path / f"t{i}", base, i)
    recipe = write_recipe(
        tmp_path / "recipe.yaml",
        base=str(tmp_path / "base"),
        experts=[{"task": f"t{i}", "checkpoint": str(tmp_path / f"t{i}")} for i in range(3)],
        shared={"method": method},
        exclusive={"rank": 2, "reference": where if kind == "full" else "auto"},
    )
    bundle, report = built(recipe, tmp_path / "bundle")
    assert bundle.manifest.reference == where
    found = report["kinship"]
    assert found["tasks"] == list(found["loss"]) == ["t0", "t1", "t2"]
    assert len(found["cosine"]) == len(found["cosine"][0]) == len(found["interference"]) == 3
    static = load_composed(bundle, factor_weights({}, bundle.carried, bundle.scalings))
    inputs = open_inputs(read_recipe(recipe))
    read = reader(inputs.base, inputs.finetunes.values())
    merged = dict(static.named_parameters())
    for i, task in enumerate(found["tasks"]):
        distance = energy = 0.0
        for name in inputs.base.table:
            ((vectors),) = read(name)
            vector = torch.zeros(()) if vectors[i] is None else vectors[i].double()
            gap = merged[name].detach().double() - inputs.base.weight(name).double() - vector
            distance, energy = distance + float(gap.square().sum()), energy + float(vector.square().sum())
        assert found["loss"][task]["static"] == pytest.approx(distance / energy, rel=1e-4)
        kept = bundle.manifest.experts[task].kept
        scale = distance / energy if where == "shared" else 1.0
        assert found["loss"][task]["expert"] == pytest.approx((1 - kept) * scale, rel=1e-4, abs=1e-6)


def test_predicted_errors_of_known_merges():
    dot = np.array([[4.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(linear_errors(dot, [1, 0, 0]), [0, 5, np.nan])
    np.testing.assert_allclose(linear_errors(dot, [0, 0, 0]), [1, 1, np.nan])
    np.testing.assert_allclose(linear_errors(dot, [0.5, 0.5, 9]), [0.3125, 1.25, np.nan])
    opposite = np.array([[1.0, -1.0, 0.5], [-1.0, 1.0, -0.5], [0.5, -0.5, 0.25]])
    np.testing.assert_allclose(merged_errors(opposite), [0.25, 2.25])


def families(within: float, across: float) -> np.ndarray:
    """Tasks 0, 2, 4 are one family, 1 and 3 another, 5 is nobody's."""
    cosine = np.full((6, 6), across)
    for family in ((0, 2, 4), (1, 3)):
        cosine[np.ix_(family, family)] = within
    cosine[5], cosine[:, 5] = 0.01, 0.01
    cosine[0, 2] = cosine[2, 0] = within + 0.05
    np.fill_diagonal(cosine, 1.0)
    return cosine


@pytest.mark.parametrize(("within", "across"), [(0.6, 0.02), (0.6, -0.4), (0.11, 0.04), (0.9, 0.3)])
def test_two_families_are_found(within, across):
    assert groups(families(within, across)) == [[0, 2, 4], [1, 3], [5]]
    order = merge_order(families(within, across))
    assert [vector for vector, _ in order][:3] == [0, 2, 4]
    assert [kinship for _, kinship in order][:3] == pytest.approx([1, within + 0.05, within])
    assert sorted(vector for vector, _ in order) == list(range(6))


def test_groups_of_few_of_alike_and_of_unrelated():
    assert groups(np.ones((1, 1))) == [[0]] and merge_order(np.ones((1, 1))) == [(0, 1.0)]
    assert groups(np.full((4, 4), 0.5)) == [[0, 1, 2, 3]]
    assert groups(np.eye(3) - 0.2) == groups(np.zeros((3, 3))) == [[0], [1], [2]]


def test_measured_loss_stands_beside_the_predicted_one():
    tasks = ["a", "b", "c", "nothing"]
    vectors = np.random.default_rng(0).standard_normal((4, 50)) * np.array([[1], [2], [3], [0]])
    whole = sums(vectors)
    errors = linear_errors(whole.dot, [0.3] * 4)
    kinship = measure(tasks, {}, lambda _: [], silent)
    facts = section(type(kinship)(tasks, whole, {"0": whole}, {"q": whole}), tasks, errors, np.zeros(4))
    static, own = {"a": 0.2, "b": 0.5, "c": 0.8, "nothing": 0.1}, dict.fromkeys(tasks, 0.9)
    found = beside_measured(facts, static, own)
    assert list(found["tasks"]) == ["a", "b", "c"]
    assert found["tasks"]["a"] == {"predicted": pytest.approx(errors[0], abs=1e-6), "measured": 0.9 - 0.2}
    assert found["spearman"][0] == pytest.approx(1.0)
    tuned = beside_measured(facts, static, own, scaling=0.7)
    expected = linear_errors(whole.dot, [0.7] * 4)[:3]
    assert [row["predicted"] for row in tuned["tasks"].values()] == pytest.approx(expected, rel=1e-4)
    assert beside_measured(facts, own, own)["spearman"] is None
    assert beside_measured(facts, {"a": 0.1, "b": 0.2}, own)["spearman"] is None


def test_what_a_parameter_is(mixed):
    table = open_inputs(read_recipe(mixed / "recipe.yaml")).base.table
    expected = {
        "model.embed_tokens.weight": ("outside", "embedding"),
        "model.layers.1.self_attn.q_proj.weight": ("1", "q_proj"),
        "model.layers.1.self_attn.q_proj.bias": ("1", "bias"),
        "model.layers.0.input_layernorm.weight": ("0", "norm"),
        "model.norm.weight": ("outside", "norm"),
        "lm_head.weight": ("outside", "lm_head"),
    }
    assert {name: (layer_of(name), kind_of(table[name], table)) for name in expected} == expected


def test_the_page_has_the_numbers_and_escapes_task_names(mixed, tmp_path):
    bundle, report = built(mixed / "recipe.yaml", tmp_path / "bundle")
    html = (bundle.path / "report.html").read_text(encoding="utf-8")
    kinship = report["kinship"]
    assert json.loads((bundle.path / "report.json").read_text())["kinship"] == kinship
    assert "<script" not in html and not re.search(r"(src|@import|url)\s*[=(]", html)
    for row in kinship["cosine"]:
        for value in row:
            assert f">{value:z.3f}</td>".replace("-", "−") in html
    assert (
        f">{100 * kinship['conflict'][0][2]:.1f}<small>{100 * kinship['conflict_by_count'][0][2]:.1f}<"
        in html
    )
    assert "<td>–</td>" in html
    worst = kinship["interference"][0]
    assert f"<b>{worst['tasks'][0]}</b> and <b>{worst['tasks'][1]}</b>" in html
    assert "full, copy" in html and f"{kinship['loss']['full']['static']:.3f}" in html
    bad = "<img src=x>&'"
    renamed = json.loads(json.dumps(kinship).replace('"full"', json.dumps(bad)))
    write_report(tmp_path, bundle.manifest, report | {"kinship": renamed})
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<img" not in html and "&lt;img src=x&gt;&amp;&#39;" in html


def test_one_task_and_tasks_that_changed_nothing_have_a_page_too(tmp_path):
    base = tiny.save_base(tmp_path / "base", "gpt2")
    for count, scale in ((1, 0.2), (2, 0.0)):
        for i in range(count):
            tiny.save_finetune(tmp_path / f"t{i}", base, i, scale=scale)
        recipe = write_recipe(
            tmp_path / "recipe.yaml",
            base=str(tmp_path / "base"),
            experts=[{"task": f"t{i}", "checkpoint": str(tmp_path / f"t{i}")} for i in range(count)],
        )
        bundle, report = built(recipe, tmp_path / f"bundle{count}")
        html = (bundle.path / "report.html").read_text(encoding="utf-8")
        assert "nan" not in html.lower().replace("finance", "") and len(report["kinship"]["groups"]) == count
        assert ("Energy by layer" in html) == (scale > 0)
