"""A router's files: they survive a round trip but no damage."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

from compress.errors import InputError
from router import Router, load_router, save_router
from router.classifiers import CLASSIFIER_KINDS, ClassifierKind
from router.features import FEATURE_KINDS, FeatureKind
from tests.router.conftest import FINGERPRINT, Trained
from tests.router.prompts import TASKS, prompts, queries

HEAD, ARRAYS = "router.json", "router.safetensors"
FILES = ["report.html", HEAD, ARRAYS]
TEXTS = [prompt.text for prompt in prompts(TASKS, 5, seed=3)] + ["~~~~~", "!?!?"]


@pytest.fixture
def router(trained: Trained) -> Router:
    return trained("embedding", "logistic")


@pytest.mark.parametrize("classifier", CLASSIFIER_KINDS)
@pytest.mark.parametrize("features", FEATURE_KINDS)
def test_a_saved_router_answers_the_same(
    model: Any, trained: Trained, tmp_path: Path, features: FeatureKind, classifier: ClassifierKind
) -> None:
    router = trained(features, classifier)
    save_router(router, tmp_path / "new" / "router")
    assert sorted(os.listdir(tmp_path / "new" / "router")) == FILES
    loaded = load_router(tmp_path / "new" / "router", FINGERPRINT)
    assert loaded.tasks == router.tasks and loaded.settings == router.settings
    assert loaded.fingerprint == router.fingerprint and loaded.report == router.report
    routes = loaded.route(model, queries(TEXTS)), router.route(model, queries(TEXTS))
    for found, expected in zip(*routes, strict=True):
        # Arrays may have been laid out otherwise in memory, so that sums are rounded otherwise.
        assert found.probabilities == pytest.approx(expected.probabilities, rel=1e-12)
        assert (found.known, found.mixture) == (expected.known, expected.mixture)


def test_saving_what_was_loaded_changes_no_byte(trained: Trained, tmp_path: Path) -> None:
    for features in ("embedding", "tfidf"):
        save_router(trained(features, "prototypes"), tmp_path / "a")
        save_router(load_router(tmp_path / "a"), tmp_path / "b")
        for name in (HEAD, ARRAYS):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_saving_does_not_write_into_hard_linked_files(trained: Trained, tmp_path: Path) -> None:
    save_router(trained("embedding", "logistic"), tmp_path / "a")
    (tmp_path / "b").mkdir()
    for name in FILES:
        os.link(tmp_path / "a" / name, tmp_path / "b" / name)
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    save_router(trained("tfidf", "logistic"), tmp_path / "b")
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    assert load_router(tmp_path / "b").settings.features == ("tfidf",)


def test_references_are_stored_in_half_precision(trained: Trained, tmp_path: Path) -> None:
    save_router(trained("embedding", "logistic"), tmp_path / "dense")
    assert load_file(tmp_path / "dense" / ARRAYS)["novelty.references"].dtype == np.float16
    save_router(trained("tfidf", "logistic"), tmp_path / "sparse")
    assert load_file(tmp_path / "sparse" / ARRAYS)["novelty.references.data"].dtype == np.float16


@pytest.mark.parametrize("features", FEATURE_KINDS)
def test_only_features_of_the_served_model_tie_a_router_to_it(
    trained: Trained, tmp_path: Path, features: FeatureKind
) -> None:
    save_router(trained(features, "logistic"), tmp_path)
    assert load_router(tmp_path).tasks == load_router(tmp_path, FINGERPRINT).tasks == tuple(TASKS)
    if features in ("embedding", "hidden"):
        with pytest.raises(InputError, match="another shared base") as caught:
            load_router(tmp_path, "b2" * 32)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    else:
        assert load_router(tmp_path, "b2" * 32).fingerprint == ""


def test_a_task_without_an_expert_is_refused(router: Router, tmp_path: Path) -> None:
    save_router(router, tmp_path)
    assert load_router(tmp_path, tasks=[*TASKS, "more"]).tasks == tuple(TASKS)
    with pytest.raises(InputError, match="names the task 'talking', which has no expert"):
        load_router(tmp_path, tasks=TASKS[:2])


Damage = Callable[[Path], None]


def change_head(settings: dict[str, Any] | None = None, **changes: Any) -> Damage:
    def change(folder: Path) -> None:
        head = json.loads((folder / HEAD).read_text())
        head["settings"] |= settings or {}
        head = {key: value for key, value in {**head, **changes}.items() if value is not ...}
        (folder / HEAD).write_text(json.dumps(head))

    return change


def change_arrays(**changes: Any) -> Damage:
    """By name with "__" for "."; a function changes what is there, ... takes it away."""

    def change(folder: Path) -> None:
        arrays = load_file(folder / ARRAYS)
        for key, value in changes.items():
            name = key.replace("__", ".")
            if value is ...:
                del arrays[name]
            else:
                arrays[name] = np.ascontiguousarray(value(arrays[name]) if callable(value) else value)
        save_file(arrays, folder / ARRAYS)

    return change


def unlink(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def overwrite(name: str, content: bytes) -> Damage:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def other_type(dtype: torch.dtype) -> Damage:
    def change(folder: Path) -> None:
        tensors = {name: torch.from_numpy(array) for name, array in load_file(folder / ARRAYS).items()}
        tensors["scaling.weight"] = tensors["scaling.weight"].to(dtype)
        save_tensors(tensors, folder / ARRAYS)

    return change


def nan(array: np.ndarray) -> np.ndarray:
    return np.full_like(array, np.nan)


def double(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)


def half(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float16)


def shorter(array: np.ndarray) -> np.ndarray:
    return array[:-1]


def narrower(array: np.ndarray) -> np.ndarray:
    return array[:, :-1]


def moved(by: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: array + np.int32(by)


def zeros(array: np.ndarray) -> np.ndarray:
    return np.zeros_like(array)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no head": (unlink(HEAD), "router.json: cannot be read"),
    "no arrays": (unlink(ARRAYS), "router.safetensors: cannot be read"),
    "head not JSON": (overwrite(HEAD, b"{"), "router.json: cannot be read as JSON"),
    "head not text": (overwrite(HEAD, b"\xff"), "router.json: cannot be read as JSON"),
    "head a list": (overwrite(HEAD, b"[]"), "schema_version None is not supported"),
    "arrays cut": (overwrite(ARRAYS, b"\x10"), "safetensors: cannot be read"),
    "earlier version": (change_head(schema_version=1), "schema_version 1 is not supported, only 2"),
    "later version": (change_head(schema_version=3), "schema_version 3 is not supported, only 2"),
    "no version": (change_head(schema_version=...), "schema_version None"),
    "no tasks": (change_head(tasks=[]), "router.json: tasks: "),
    "missing key": (change_head(calibration=...), "calibration: Field required"),
    "no fingerprint": (change_head(fingerprint=...), "fingerprint: Field required"),
    "unknown key": (change_head(extra=1), "extra: "),
    "unknown setting": (change_head({"depth": 3}), "settings.depth: "),
    "bad policy": (change_head({"top_k": 0}), "settings.top_k: "),
    "two kinds": (change_head({"features": ["embedding", "tfidf"]}), "settings.features: one is needed"),
    "two classifiers": (change_head({"classifiers": ["mlp", "logistic"]}), "settings.classifiers: one is"),
    "other classifier": (change_head({"classifiers": ["mlp"]}), "hidden is missing"),
    "temperature 0": (change_head(calibration=0), "calibration: "),
    "not a number": (change_head(calibration=float("nan")), "calibration: "),
    "infinite": (change_head(calibration=float("inf")), "calibration: "),
    "no thresholds": (change_arrays(novelty__thresholds=...), "novelty.thresholds"),
    "thresholds NaN": (change_arrays(novelty__thresholds=nan), "novelty.thresholds is float64"),
    "thresholds few": (change_arrays(novelty__thresholds=shorter), r"novelty.thresholds is float64 \(2,\)"),
    "thresholds half": (change_arrays(novelty__thresholds=half), "novelty.thresholds is float16"),
    "thresholds below 0": (change_arrays(novelty__thresholds=np.negative), "novelty.thresholds is"),
    "task twice": (change_head(tasks=["a", "a", "b"]), "tasks: a task is named twice"),
    "fewer tasks": (change_head(tasks=["a", "b"]), r"coef is float32 \(3, 32\) instead of .*2, any"),
    "no coef": (change_arrays(classifier__coef=...), "coef is missing"),
    "no weight": (change_arrays(scaling__weight=...), "scaling.weight"),
    "no owner": (change_arrays(novelty__owner=...), "novelty.owner"),
    "compared beyond": (change_head(compared=10**6), "compares 1000000 features of"),
    "no references": (change_arrays(novelty__references=...), "novelty.references"),
    "wrong shape": (change_arrays(classifier__intercept=shorter), "intercept is float32"),
    "wrong dtype": (change_arrays(classifier__coef=double), "coef is float64"),
    "NaN": (change_arrays(classifier__coef=nan), "coef holds unusable numbers"),
    "narrow coef": (change_arrays(classifier__coef=narrower), "size 31|31 "),
    "narrow weight": (change_arrays(scaling__weight=shorter), "size .*31|31 "),
    "weight of zero": (change_arrays(scaling__weight=zeros), "scaling.weight holds unusable"),
    "weight NaN": (change_arrays(scaling__weight=nan), "scaling.weight holds unusable"),
    "weight double": (change_arrays(scaling__weight=double), "scaling.weight"),
    "references NaN": (change_arrays(novelty__references=nan), "references holds unusable"),
    "references double": (change_arrays(novelty__references=double), "references is float64"),
    "references narrow": (
        change_arrays(novelty__references=narrower),
        "references are 31 wide instead of 32",
    ),
    "references few": (change_arrays(novelty__references=shorter), "owner is int32"),
    "owner beyond": (change_arrays(novelty__owner=moved(1)), "owner names tasks beyond the 3"),
    "owner below": (change_arrays(novelty__owner=moved(-1)), "owner names tasks beyond the 3"),
    "owner double": (change_arrays(novelty__owner=double), "owner is float64"),
    "owner short": (change_arrays(novelty__owner=shorter), "owner is int32"),
    "four references": (
        change_arrays(
            novelty__owner=np.zeros(4, dtype=np.int32), novelty__references=np.eye(4, 32, dtype=np.float16)
        ),
        r"owner is int32 \(4,\)",
    ),
}
SPARSE: dict[str, tuple[Damage, str]] = {
    "columns short": (change_arrays(scaling__columns=shorter), "columns is int32"),
    "columns double": (change_arrays(scaling__columns=double), "columns is float64"),
    "no data": (change_arrays(novelty__references__data=...), "novelty.references.data"),
    "no indices": (change_arrays(novelty__references__indices=...), "novelty.references.indices"),
    "data NaN": (change_arrays(novelty__references__data=nan), "references holds unusable"),
    "data short": (change_arrays(novelty__references__data=shorter), "same size"),
    "indices beyond": (change_arrays(novelty__references__indices=moved(10**6)), "indices must be <"),
    "indices below": (change_arrays(novelty__references__indices=moved(-(10**6))), "indices must be >="),
    "pointers short": (change_arrays(novelty__references__indptr=shorter), "owner is int32"),
    "pointers from 1": (change_arrays(novelty__references__indptr=moved(1)), "should start with 0"),
}


def assert_refused(router: Router, folder: Path, damage: Damage, sentence: str) -> None:
    save_router(router, folder)
    damage(folder)
    with pytest.raises(InputError, match=sentence) as caught:
        load_router(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    assert "train the router again" in str(caught.value)


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files_are_refused(router: Router, tmp_path: Path, name: str) -> None:
    assert_refused(router, tmp_path, *DAMAGES[name])


@pytest.mark.parametrize("name", SPARSE)
def test_damaged_sparse_arrays_are_refused(trained: Trained, tmp_path: Path, name: str) -> None:
    assert_refused(trained("tfidf", "logistic"), tmp_path, *SPARSE[name])


MORE_DAMAGES: dict[str, tuple[FeatureKind, Damage, str]] = {
    "head too deep": ("embedding", overwrite(HEAD, b"[" * 200_000), "cannot be read as JSON"),
    "bfloat16": ("embedding", other_type(torch.bfloat16), "scaling.weight|cannot be read"),
    "eight bits": ("embedding", other_type(torch.float8_e4m3fn), "scaling.weight|cannot be read"),
    "hashed features, dense arrays": ("embedding", change_head({"features": ["tfidf"]}), "columns"),
    "dense features, hashed arrays": ("tfidf", change_head({"features": ["embedding"]}), "columns"),
    "no columns": ("tfidf", change_arrays(scaling__columns=...), "columns"),
    "columns beyond": ("tfidf", change_arrays(scaling__columns=moved(10**6)), "columns"),
    "columns below": ("tfidf", change_arrays(scaling__columns=moved(-(10**6))), "columns"),
    "an array too many": ("embedding", change_arrays(more=np.zeros(3, dtype=np.float32)), "more"),
}


@pytest.mark.parametrize("name", MORE_DAMAGES)
def test_more_damage_is_refused(trained: Trained, tmp_path: Path, name: str) -> None:
    features, damage, sentence = MORE_DAMAGES[name]
    assert_refused(trained(features, "logistic"), tmp_path, damage, sentence)
