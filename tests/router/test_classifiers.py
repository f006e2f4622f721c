"""What all classifiers promise: to learn, to be plain arrays, and to refuse arrays that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from router.classifiers import CLASSIFIER_KINDS, Array, ClassifierKind, checked, classifier_class
from tests.router import blobs


@pytest.fixture(params=CLASSIFIER_KINDS)
def kind(request: pytest.FixtureRequest) -> ClassifierKind:
    return request.param


@pytest.mark.parametrize("tasks", [2, 3, 6])
@pytest.mark.parametrize("made", blobs.MAKERS)
def test_features_that_overlap_are_mostly_told_apart(made: str, kind: ClassifierKind, tasks: int) -> None:
    x, labels = blobs.scaled(made, tasks)
    classifier = classifier_class(kind).fit(x, labels, tasks, seed=0)
    logits = classifier.logits(x)
    assert classifier.kind == kind
    assert logits.shape == (len(labels), tasks) and logits.dtype == np.float64
    assert (logits.argmax(1) == labels).mean() > 0.8


@pytest.mark.parametrize("made", blobs.MAKERS)
def test_one_task_is_the_only_choice(made: str, kind: ClassifierKind) -> None:
    x, labels = blobs.scaled(made, 1)
    logits = classifier_class(kind).fit(x, labels, 1, seed=0).logits(x)
    assert logits.shape == (len(labels), 1) and np.isfinite(logits).all()


@pytest.mark.parametrize("tasks", [1, 2, 3])
@pytest.mark.parametrize("made", blobs.MAKERS)
def test_its_arrays_are_all_it_knows(made: str, kind: ClassifierKind, tasks: int) -> None:
    x, labels = blobs.scaled(made, tasks)
    classifier = classifier_class(kind).fit(x, labels, tasks, seed=0)
    arrays = classifier.arrays()
    assert all(array.dtype == np.float32 for array in arrays.values())
    again = classifier_class(kind).of({name: array.copy() for name, array in arrays.items()}, tasks)
    np.testing.assert_array_equal(again.logits(x), classifier.logits(x))


def test_equal_seeds_give_equal_arrays(kind: ClassifierKind) -> None:
    x, labels = blobs.scaled("dense", 3)
    first, second = (classifier_class(kind).fit(x, labels, 3, seed=5).arrays() for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_an_empty_row_and_a_constant_feature_are_harmless(kind: ClassifierKind) -> None:
    x, labels = blobs.scaled("dense", 3)
    x[:, 4] = 0.3
    classifier = classifier_class(kind).fit(x, labels, 3, seed=0)
    assert np.isfinite(classifier.logits(np.zeros((2, blobs.WIDTH), dtype=np.float32))).all()


DAMAGES: dict[str, tuple[Callable[[Array], Any], str]] = {
    "missing": (lambda array: None, "is missing"),
    "float64": (lambda array: array.astype(np.float64), "is float64"),
    "half": (lambda array: array.astype(np.float16), "is float16"),
    "another dimension": (lambda array: array[None], "instead of float32"),
    "a number": (lambda array: array.flat[0].reshape(()), "instead of float32"),
    "NaN": (lambda array: np.full_like(array, np.nan), "holds unusable numbers"),
    "infinite": (lambda array: np.full_like(array, -np.inf), "holds unusable numbers"),
}
ARRAYS: dict[ClassifierKind, tuple[str, ...]] = {
    "logistic": ("coef", "intercept"),
    "mlp": ("hidden", "bias", "coef", "intercept"),
    "prototypes": ("mean", "centres", "owner"),
}
NAMES = [(kind, name) for kind, names in ARRAYS.items() for name in names]


@cache
def fitted(kind: ClassifierKind) -> Any:
    return classifier_class(kind).fit(*blobs.scaled("dense", 3), 3, seed=0)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_a_damaged_array_is_named(kind: ClassifierKind, name: str, damage: str) -> None:
    change, sentence = DAMAGES[damage]
    arrays = fitted(kind).arrays()
    assert set(arrays) == set(ARRAYS[kind])
    arrays[name] = change(arrays[name])
    with pytest.raises(ValueError, match=f"^{name} {sentence}|^{name} is float32 .*{sentence}"):
        classifier_class(kind).of(arrays, 3)


@pytest.mark.parametrize(("kind", "name"), [pair for pair in NAMES if pair[1] not in ("hidden", "mean")])
def test_an_array_of_too_few_rows_does_not_fit(kind: ClassifierKind, name: str) -> None:
    arrays = fitted(kind).arrays()
    arrays[name] = arrays[name][:-1]
    with pytest.raises(ValueError, match=r"instead of float32 \("):
        classifier_class(kind).of(arrays, 3)


@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_another_number_of_tasks_does_not_fit(kind: ClassifierKind, tasks: int) -> None:
    arrays = fitted(kind).arrays()
    with pytest.raises(ValueError, match=r"instead of float32|does not name \d tasks"):
        classifier_class(kind).of(arrays, tasks)


@pytest.mark.parametrize("owner", [[0, 1, 1], [0, 2, 1], [0, 1, 0.5], [-1, 0, 1], [1, 2, 3]])
def test_prototypes_must_belong_to_the_tasks_in_order(owner: list[float]) -> None:
    arrays = {"mean": np.zeros(4), "centres": np.eye(3, 4), "owner": np.array(owner)}
    with pytest.raises(ValueError, match="owner does not name 3 tasks in order"):
        classifier_class("prototypes").of({k: a.astype(np.float32) for k, a in arrays.items()}, 3)


def test_any_size_is_any_size() -> None:
    arrays = {"a": np.zeros((2, 7), dtype=np.float32)}
    assert checked(arrays, a=(2, None))[0] is arrays["a"]
    with pytest.raises(ValueError, match=r"a is float32 \(2, 7\) instead of float32 \(3, any\)"):
        checked(arrays, a=(3, None))
