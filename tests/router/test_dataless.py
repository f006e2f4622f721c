"""Routers without prompts: what experts' own factors read, written out as loops in float64."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as numpy_file
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from compress.bundle import Bundle
from compress.compose import factor_weights, load_composed
from compress.errors import InputError
from compress.experts import Expert
from router import Route, Router, RouterSettings, dataless_router, load_router, save_router
from router.features.projection import DIRECTIONS, LENGTH, SAMPLES
from tests import tiny
from tests.bundles import build_bundle, write_recipe
from tests.router.conftest import FINGERPRINT
from tests.router.prompts import TASKS, prompts, turn
from tests.trained import LETTERS, TrainedZoo

TOKENIZER = tiny.tokenizer()
TEXTS = [prompt.text for prompt in prompts(TASKS, 3, seed=1)] + ["a", "zz zz zz"]


def composed(bundle: Bundle) -> Any:
    """The shared base."""
    return load_composed(bundle, factor_weights({}, bundle.carried, bundle.scalings))


def experts_of(bundle: Bundle) -> list[Expert]:
    table = bundle.table()
    return [bundle.expert(task, table) for task in bundle.tasks]


def made(bundle: Bundle, layer: int | None) -> Router:
    settings = RouterSettings(layer=layer)
    return dataless_router(composed(bundle), experts_of(bundle), bundle.tasks, settings, FINGERPRINT)[0]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """``mixed("wide narrow late")``: experts of all linear layers, of few, and of none in the first layer."""
    folder = tmp_path_factory.mktemp("mixed")
    base = tiny.save_base(folder / "base")
    tiny.save_adapter(folder / "wide", base, 1, r=6, target_modules="all-linear")
    tiny.save_adapter(folder / "narrow", base, 2, r=3, target_modules=["q_proj", "down_proj"])
    for seed, task in enumerate(("late", "later")):
        tiny.save_finetune(folder / task, base, seed, skip=["layers.0", "embed"])

    def get(tasks: str) -> Bundle:
        recipe = write_recipe(
            folder / "recipe.yaml",
            base=str(folder / "base"),
            experts=[{"task": task, "checkpoint": str(folder / task)} for task in tasks.split()],
            exclusive={"rank": 8, "reference": "pretrained"},
        )
        return build_bundle(recipe, folder / tasks.replace(" ", "-"))

    return get


def leading(expert: Expert, name: str) -> np.ndarray | None:
    """Right singular vectors [up to 4, d_in] of an expert's dense delta of one matrix."""
    factors = expert.low_rank(name)
    if factors is None:
        return None
    _, values, rows = np.linalg.svd(factors.dense(torch.float64).numpy())
    return rows[: int((values[:DIRECTIONS] > 1e-6 * values[0]).sum())]


def by_hand(bundle: Bundle, layer: int, texts: list[str]) -> np.ndarray:
    """Features [texts, experts]; the whole model runs, in float64 and over one prompt at a time."""
    model, experts = composed(bundle).double(), experts_of(bundle)
    inside = [f"{kind}.{index}." for index in range(layer) for kind in ("layers", "h")]
    directions = {
        parameter.module: [leading(expert, name) for expert in experts]
        for name, parameter in sorted(bundle.table().items())
        if parameter.kind in ("linear", "conv1d") and any(part in name for part in inside)
    }
    inputs: dict[str, np.ndarray] = {}
    for module in directions:
        model.get_submodule(module).register_forward_pre_hook(
            lambda _, given, module=module: inputs.__setitem__(module, given[0][0].numpy())
        )

    def log_shares(ids: list[int]) -> list[list[float]]:
        with torch.no_grad():
            model(input_ids=torch.tensor([ids]))
        return [[log_share(inputs[module], rows) for rows in own] for module, own in directions.items()]

    def log_share(states: np.ndarray, rows: np.ndarray | None) -> float:
        if rows is None:
            return np.nan
        # A token whose state is zero has no energy to catch.
        shares = [((rows @ x) ** 2).sum() / (x @ x) if x.any() else 0.0 for x in states]
        return float(np.log(np.mean(shares)))

    vocabulary = model.get_input_embeddings().num_embeddings
    random = np.random.default_rng(0).integers(0, vocabulary, (SAMPLES, LENGTH)).tolist()
    of_random = np.array([log_shares(ids) for ids in random])
    of_texts = np.array([log_shares(list(turn(text).ids)) for text in texts])
    return np.nanmean((of_texts - of_random.mean(0)) / of_random.std(0), axis=1)


def features(router: Router, model: Any, texts: list[str]) -> np.ndarray:
    assert router.projection is not None
    return router.projection.extract(model, [turn(text) for text in texts])


@pytest.mark.parametrize(
    ("kind", "family", "layer"),
    [("adapter", "llama", 1), ("adapter", "gpt2", 2), ("full", "gemma", 1), ("full", "qwen2", 2)],
)
def test_features_are_energies_along_leading_directions(zoo: Any, kind: str, family: str, layer: int) -> None:
    bundle = zoo(kind, family).bundle
    found = features(made(bundle, layer), composed(bundle), TEXTS[:4])
    # Directions are kept in half precision.
    np.testing.assert_allclose(found, by_hand(bundle, layer, TEXTS[:4]), atol=0.005)
    assert np.ptp(found) > 0.5


def test_a_module_that_an_expert_leaves_alone_does_not_count_there(mixed: Any) -> None:
    bundle = mixed("wide narrow")
    router = made(bundle, 1)
    assert router.projection is not None
    alone = np.isinf(router.projection.spread)
    modules = [name.rpartition(".")[2] for name in router.projection.directions]
    assert not alone[:, 0].any()
    assert {name for name, left in zip(modules, alone[:, 1], strict=True) if not left} == {
        "q_proj",
        "down_proj",
    }
    found = features(router, composed(bundle), TEXTS[:4])
    np.testing.assert_allclose(found, by_hand(bundle, 1, TEXTS[:4]), atol=0.005)


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_features_do_not_depend_on_neighbours(zoo: Any, kind: str) -> None:
    bundle = zoo(kind, "llama").bundle
    router, model = made(bundle, 2), composed(bundle)
    together = features(router, model, TEXTS)
    assert together.shape == (len(TEXTS), 3) and together.dtype == np.float32
    alone = np.concatenate([features(router, model, [text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=2e-3)
    assert features(router, model, []).shape == (0, 3)


def test_the_scale_of_factors_does_not_matter(zoo: Any, tmp_path: Path) -> None:
    bundle = zoo("adapter", "llama").bundle
    model, table = composed(bundle), bundle.table()
    shutil.copytree(bundle.path / "experts" / "t1", tmp_path / "t1")
    path = tmp_path / "t1" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({k: v * (10 if "lora_B" in k else 1) for k, v in tensors.items()}, path)
    before = experts_of(bundle)
    after = [before[0], Expert(tmp_path / "t1", table), before[2]]
    first, second = (
        dataless_router(model, experts, bundle.tasks, RouterSettings(layer=2))[0]
        for experts in (before, after)
    )
    np.testing.assert_allclose(features(first, model, TEXTS), features(second, model, TEXTS), atol=5e-3)


def test_routes_are_made_of_features_alone(zoo: Any) -> None:
    bundle = zoo("adapter", "llama").bundle
    router, model = made(bundle, 1), composed(bundle)
    assert router.needs_model and router.fingerprint == FINGERPRINT and router.report["dataless"]
    queries = [router.query(TOKENIZER, [text]) for text in TEXTS]
    assert router.reads(queries[0]) == len(queries[0].turns[0].ids)
    for route, row in zip(router.route(model, queries), features(router, model, TEXTS), strict=True):
        odds = np.exp(row.astype(np.float64) / router.calibration)
        assert list(route.probabilities.values()) == pytest.approx((odds / odds.sum()).tolist(), rel=1e-2)
        assert route.known
        best = max(route.probabilities, key=lambda task: route.probabilities[task])
        assert route.mixture == ({best: 1.0} if route.confidence >= 0.5 else {})


def routes(router: Router, model: Any) -> list[Route]:
    return router.route(model, [router.query(TOKENIZER, [text]) for text in TEXTS])


@pytest.mark.parametrize("tasks", ["wide narrow", "narrow wide late"])
def test_a_saved_router_routes_the_same(mixed: Any, tmp_path: Path, tasks: str) -> None:
    bundle = mixed(tasks)
    router, model = made(bundle, 2), composed(bundle)
    save_router(router, tmp_path)
    loaded = load_router(tmp_path, FINGERPRINT, bundle.tasks)
    assert loaded.tasks == router.tasks and loaded.settings == router.settings
    assert loaded.novelty is None and loaded.report == router.report
    for found, expected in zip(routes(loaded, model), routes(router, model), strict=True):
        assert found.probabilities == pytest.approx(expected.probabilities, rel=1e-12)
        assert (found.known, found.mixture) == (expected.known, expected.mixture)
    with pytest.raises(InputError, match="another shared base"):
        load_router(tmp_path, "b2" * 32)


CENTRE, SPREAD = "projection.centre", "projection.spread"
DOWN = "projection.directions.model.layers.0.mlp.down_proj"
# An array and what becomes of it (None: it is taken away), or changes to router.json.
DAMAGES: dict[str, tuple[Any, Any, str]] = {
    "no centre": (CENTRE, None, "projection.centre"),
    "no spread": (SPREAD, None, "projection.spread"),
    "centre NaN": (CENTRE, lambda a: a * np.nan, "projection.centre is"),
    "centre short": (CENTRE, lambda a: a[:-1], "projection.centre is"),
    "centre double": (CENTRE, lambda a: a.astype(np.float64), "projection.centre is"),
    "spread NaN": (SPREAD, lambda a: a * np.nan, "projection.spread is"),
    "spread of zero": (SPREAD, np.zeros_like, "projection.spread holds unusable"),
    "spread narrow": (SPREAD, lambda a: a[:, :-1], "projection.spread is"),
    "no directions": (DOWN, None, "projection.centre is"),
    "directions NaN": (DOWN, lambda a: a * np.nan, "down_proj is"),
    "directions short": (DOWN, lambda a: a[:-1], "down_proj is"),
    "no weight": ("scaling.weight", None, "scaling.weight"),
    "no layer": ({}, {"layer": None}, "settings.layer is missing"),
    "other features": ({}, {"features": ["embedding"]}, "need each other"),
    "fewer tasks": ({"tasks": ["wide"]}, {}, "projection.centre is"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files_are_refused(mixed: Any, tmp_path: Path, name: str) -> None:
    what, change, sentence = DAMAGES[name]
    save_router(made(mixed("wide narrow"), 1), tmp_path)
    if isinstance(what, str):
        arrays = numpy_file(tmp_path / "router.safetensors")
        before = arrays.pop(what)
        if change is not None:
            arrays[what] = np.ascontiguousarray(change(before))
        save_arrays(arrays, tmp_path / "router.safetensors")
    else:
        head = json.loads((tmp_path / "router.json").read_text()) | what
        head["settings"] |= change
        (tmp_path / "router.json").write_text(json.dumps(head))
    with pytest.raises(InputError, match=sentence) as caught:
        load_router(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_expert_without_a_linear_layer_among_those_run_is_refused(mixed: Any) -> None:
    bundle = mixed("wide narrow late")
    with pytest.raises(InputError) as caught:
        made(bundle, 1)
    assert str(caught.value) == (
        "the expert of task 'late' changes no linear layer among the first 1, so it cannot be routed to "
        "without prompts: give some, or a deeper layer"
    )
    assert made(bundle, 2).tasks == ("wide", "narrow", "late")
    with pytest.raises(InputError, match="layer 3 does not exist"):
        made(bundle, 3)


@pytest.mark.parametrize("reference", ["pretrained", "shared"])
def test_experts_with_real_skills_know_their_own_prompts(
    trained_zoo: TrainedZoo, tmp_path: Path, reference: str
) -> None:
    recipe = write_recipe(
        tmp_path / "recipe.yaml",
        base=str(trained_zoo.base),
        experts=[{"task": task, "checkpoint": str(path)} for task, path in trained_zoo.finetunes.items()],
        exclusive={"rank": 8, "reference": reference},
    )
    bundle = build_bundle(recipe, tmp_path / "bundle")
    router, model = made(bundle, None), composed(bundle)
    for task in LETTERS:
        lines = (trained_zoo.data / "test" / f"{task}.jsonl").read_text().splitlines()
        texts = [json.loads(line)["messages"][0]["content"] for line in lines]
        found = router.route(model, [router.query(TOKENIZER, [text]) for text in texts])
        right = [route.probabilities[task] == route.confidence for route in found]
        assert np.mean(right) >= 0.75, f"{task}: chance is 0.25"
