"""The router as a whole: answers, and files that survive a round trip but no damage."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from compress.errors import InputError
from router import Router, RouterSettings, train_router
from tests import tiny
from tests.router.prompts import ALPHABETS, prompts

TASKS = list(ALPHABETS)
UNKNOWN = ["~~~~~~~~~~~~", "!?!?!?!?!?!?!?", "____", "zzzzzzzzzzzzzzzzzzzzzz"]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.model("llama")


@pytest.fixture(scope="module")
def router(model: Any) -> Router:
    return train_router(model, tiny.tokenizer(), prompts(TASKS, 80), TASKS, RouterSettings())[0]


def encoded(router: Router, texts: list[str]) -> list[list[int]]:
    return [router.encode(tiny.tokenizer(), text) for text in texts]


def test_routes_of_known_prompts(model: Any, router: Router) -> None:
    fresh = prompts(TASKS, 20, seed=9)
    routes = router.route(model, encoded(router, [prompt.text for prompt in fresh]))
    hits = sum(route.mixture == {p.task: 1.0} for route, p in zip(routes, fresh, strict=True))
    assert hits >= 0.85 * len(fresh)
    for route in routes:
        assert list(route.probabilities) == TASKS
        assert sum(route.probabilities.values()) == pytest.approx(1)
        assert route.confidence == max(route.probabilities.values())


def test_unknown_prompts_go_to_the_null_slot(model: Any, router: Router) -> None:
    for route in router.route(model, encoded(router, UNKNOWN)):
        assert not route.known and route.mixture == {}


def test_a_router_of_one_task_knows_what_is_not_its_task(model: Any) -> None:
    own, tokenizer = TASKS[-1:], tiny.tokenizer()
    router, _ = train_router(model, tokenizer, prompts(own, 200), own, RouterSettings())
    fresh = prompts(TASKS, 20, seed=9)
    routes = router.route(model, encoded(router, [prompt.text for prompt in fresh]))
    known = [prompt.task for prompt, route in zip(fresh, routes, strict=True) if route.known]
    assert set(known) == set(own) and len(known) >= 17


def test_nothing_said_goes_to_the_null_slot(model: Any, router: Router) -> None:
    said = encoded(router, ["12345678"])[0]
    alone, (before, empty) = router.route(model, [said]), router.route(model, [said, []])
    assert empty.probabilities == pytest.approx(dict.fromkeys(TASKS, 1 / 3))
    assert not empty.known and empty.mixture == {}
    assert before == alone[0]
    assert router.route(model, []) == []


def test_a_prompt_is_cut_to_what_the_router_looks_at(router: Router) -> None:
    assert len(encoded(router, ["abc " * 300])[0]) == router.settings.max_tokens


def test_a_saved_router_answers_the_same(model: Any, router: Router, tmp_path: Path) -> None:
    router.save(tmp_path / "new" / "router")
    loaded = Router.load(tmp_path / "new" / "router")
    assert sorted(os.listdir(tmp_path / "new" / "router")) == ["router.json", "router.safetensors"]
    assert loaded.settings == router.settings and loaded.report == router.report
    batch = encoded(router, [p.text for p in prompts(TASKS, 5, seed=3)] + UNKNOWN)
    assert loaded.route(model, batch) == router.route(model, batch)


def test_saving_does_not_write_into_hard_linked_files(router: Router, tmp_path: Path) -> None:
    router.save(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for name in ("router.json", "router.safetensors"):
        os.link(tmp_path / "a" / name, tmp_path / "b" / name)
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    other, _ = train_router(
        tiny.model("llama"), tiny.tokenizer(), prompts(TASKS, 12), TASKS, RouterSettings(seed=4)
    )
    other.save(tmp_path / "b")
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


def test_a_model_of_another_size_is_refused(router: Router) -> None:
    with pytest.raises(InputError, match=r"size 32, this model's have 64"):
        router.route(tiny.model("llama", hidden_size=64), [[5, 6]])


def change_head(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "router.json"
        head = {**json.loads(file.read_text()), **changes}
        head = {key: value for key, value in head.items() if value is not ...}
        file.write_text(json.dumps(head))

    return change


def change_arrays(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "router.safetensors"
        arrays = {**load_file(file), **changes}
        save_file({key: value for key, value in arrays.items() if value is not ...}, file)

    return change


def unlink(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def overwrite(name: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


ZEROS = np.zeros((3, 32), dtype=np.float32)
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no head": (unlink("router.json"), "router.json: cannot be read"),
    "no arrays": (unlink("router.safetensors"), "router.safetensors: cannot be read"),
    "head not JSON": (overwrite("router.json", b"{"), "router.json: cannot be read as JSON"),
    "head a list": (overwrite("router.json", b"[]"), "schema_version None is not supported"),
    "arrays cut": (overwrite("router.safetensors", b"\x10"), "safetensors: cannot be read"),
    "later version": (change_head(schema_version=2), "schema_version 2 is not supported, only 1"),
    "no version": (change_head(schema_version=...), "schema_version None"),
    "no tasks": (change_head(tasks=[]), "router.json: tasks: "),
    "missing key": (change_head(temperature=...), "temperature: Field required"),
    "unknown key": (change_head(extra=1), "extra: "),
    "unknown setting": (change_head(settings={"depth": 3}), "settings.depth: "),
    "no layer": (change_head(settings={}), "settings.layer: a number is needed"),
    "temperature 0": (change_head(temperature=0), "temperature: "),
    "infinite": (change_head(distance_threshold=float("inf")), "distance_threshold: "),
    "not a number": (change_head(temperature=float("nan")), "temperature: "),
    "task twice": (change_head(tasks=["a", "a", "b"]), "tasks: a task is named twice"),
    "fewer tasks": (change_head(tasks=["a", "b"]), r"coef is float32 \(3, 32\) instead of .*2, 32"),
    "array missing": (change_arrays(mean=...), "instead of"),
    "array too many": (change_arrays(more=ZEROS), "instead of"),
    "wrong shape": (change_arrays(intercept=ZEROS), "intercept is"),
    "wrong dtype": (change_arrays(coef=ZEROS.astype(np.float64)), "coef is float64"),
    "NaN": (change_arrays(coef=ZEROS * np.nan), "coef holds unusable numbers"),
    "few references": (change_arrays(references=ZEROS), "references is"),
    "scale of zero": (change_arrays(scale=ZEROS[0]), "scale holds unusable numbers"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files_are_refused(router: Router, tmp_path: Path, name: str) -> None:
    damage, sentence = DAMAGES[name]
    router.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=sentence) as caught:
        Router.load(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
