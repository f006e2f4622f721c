"""The routing benchmark's prompts are what they are called, and its intervals hold what they should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.routing import prompts
from benchmarks.routing.shares import share, shown

DATA = Path("examples/zoo/data").resolve()
TASKS = sorted(path.stem for path in (DATA / "test").glob("*.jsonl"))


def texts(split: str, task: str) -> list[str]:
    return prompts._texts(DATA / split / f"{task}.jsonl")


TESTS = {task: texts("test", task) for task in TASKS}


@pytest.fixture(scope="module")
def kinds() -> dict[str, prompts.Labelled]:
    return prompts.kinds(DATA, TASKS)


def edits(a: str, b: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        last = row
        row = [i]
        for j, other in enumerate(b, start=1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (letter != other)))
    return row[-1]


def test_what_is_measured_is_in_no_training() -> None:
    train, measured = prompts.split(DATA, TASKS)
    assert (train, measured) == prompts.split(DATA, TASKS)
    ours, theirs = {text for _, text in train}, {text for _, text in measured}
    assert not ours & theirs and len(theirs) == len(measured)
    for task in TASKS:
        own = [text for found, text in measured if found == task]
        assert set(TESTS[task]) <= set(own) and len(own) == len(TESTS[task]) + prompts.MEASURED
        fitted = [text for found, text in train if found == task]
        assert len(fitted) == prompts.MOST and set(fitted) <= set(texts("train", task))
        assert not set(texts("router", task)) & theirs


def test_typos_are_few_and_the_same_every_time(kinds: dict[str, prompts.Labelled]) -> None:
    typed = kinds["with typos"]
    plain = [(task, text) for task in TASKS for text in TESTS[task]]
    assert [task for task, _ in typed] == [task for task, _ in plain]
    pairs = [(new, old) for (_, new), (_, old) in zip(typed, plain, strict=True)]
    changed = [new != old for new, old in pairs]
    assert np.mean(changed) > 0.95
    sample = pairs[::20]
    letters = [sum(map(str.isalpha, old)) for _, old in sample]
    moved = [edits(new, old) for new, old in sample]
    # A swap counts twice.
    assert 0.04 < sum(moved) / sum(letters) < 0.09
    assert all(number <= 0.3 * count + 2 for number, count in zip(moved, letters, strict=True))
    for new, old in pairs:
        kept = [re.sub(r"[^\W\d_]", "", text) for text in (new, old)]
        assert sorted(kept[0]) == sorted(kept[1]), "figures, marks and spaces stay"


def test_typos_do_not_depend_on_the_process() -> None:
    code = "from benchmarks.routing.prompts import _typed; print(_typed('a quick brown fox ' * 20))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=DATA.parents[2],
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"},
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {prompts._typed("a quick brown fox " * 20) + "\n"}


def test_another_operation_is_another_prompt(kinds: dict[str, prompts.Labelled]) -> None:
    changed = kinds["same format, another operation"]
    assert all(task is None for task, _ in changed)
    every = {text for own in TESTS.values() for text in own}
    assert not {text for _, text in changed} & every
    asked = {
        "arithmetic": r": \d+ \* \d+ =",
        "reversal": r"Sort this list of words by length: \w",
        "family": r"Who is older, \w+ or \w+\? Respond only with the name\.$",
        "recall": r"How many people are named\? Reply only with a number\.$",
    }
    assert asked.keys() == prompts.CHANGES.keys()
    for task, pattern in asked.items():
        own = list(prompts._changed({task: TESTS[task]}))
        assert 30 <= len(own) <= 100
        assert all(re.search(pattern, text) for text in own)
    assert len(changed) == sum(len(list(prompts._changed({task: TESTS[task]}))) for task in asked)


def test_other_kinds_are_labelled_by_who_should_answer(kinds: dict[str, prompts.Labelled]) -> None:
    own = {"with typos", "reworded"}
    for kind, labelled in kinds.items():
        assert len(labelled) >= 50
        assert {task for task, _ in labelled} <= (set(TASKS) if kind in own else {None}), kind
    assert len({task for task, _ in kinds["reworded"]}) >= 5
    foreign = {f"foreign: {path.stem}" for path in (DATA / "foreign").glob("*.jsonl")}
    assert len(foreign) >= 3 and kinds.keys() == own | foreign | {
        "same format, another operation",
        "of no task, written for this",
    }
    known = {text for task in TASKS for part in ("test", "router", "train") for text in texts(part, task)}
    for kind, labelled in kinds.items():
        if kind != "with typos":
            assert not {text for _, text in labelled} & known, kind


def test_kinds_of_some_tasks_hold_no_others() -> None:
    found = prompts.kinds(DATA, ["reversal", "movies"])
    for kind in ("with typos", "reworded"):
        assert {task for task, _ in found[kind]} == {"reversal", "movies"}
    assert all("Sort this list" in text for _, text in found["same format, another operation"])


def test_pairs_ask_both_tasks_at_once() -> None:
    pairs = prompts.pairs(DATA, TASKS, 60)
    assert len(pairs) == 60 and pairs == prompts.pairs(DATA, TASKS, 60)
    for (first, second), text in pairs:
        one, _, other = text.partition("\n\nAlso: ")
        assert first != second and one in TESTS[first] and other in TESTS[second]
    named = {task for both, _ in pairs for task in both}
    assert named == set(TASKS) - set(prompts.LOOKALIKES), "look-alikes are one task to most readers"
    assert prompts.pairs(DATA, ["sorting", "movies"]) == []


@pytest.mark.parametrize("hits", [[1, 0], [1] * 30 + [0] * 10, [0] * 99 + [1], [True, False, True]])
def test_an_interval_holds_the_mean(hits: Any) -> None:
    found = share(hits)
    assert found["share"] == pytest.approx(np.mean(hits)) and found["prompts"] == len(hits)
    assert 0 <= found["low"] <= found["share"] <= found["high"] <= 1
    assert found["low"] < found["high"] and found == share(np.array(hits))


def test_an_interval_is_as_wide_as_the_normal_one() -> None:
    """For many prompts the bootstrap agrees with sqrt(p (1 - p) / n)."""
    found = share([1] * 300 + [0] * 700)
    width = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert found["low"] == pytest.approx(0.3 - width, abs=0.003)
    assert found["high"] == pytest.approx(0.3 + width, abs=0.003)


@pytest.mark.parametrize(("count", "far"), [(1, 1.0), (2, 1.0), (3, 1.0), (60, 0.05), (300, 0.01)])
def test_without_a_miss_or_a_hit_the_rule_of_three_holds(count: int, far: float) -> None:
    none, all_ = share([False] * count), share([True] * count)
    assert none == {"share": 0.0, "low": 0.0, "high": pytest.approx(far), "prompts": count}
    assert all_ == {"share": 1.0, "low": pytest.approx(1 - far), "high": 1.0, "prompts": count}


def test_shares_are_shown_in_percent() -> None:
    assert shown({"share": 0.4567, "low": 0.4, "high": 0.9999, "prompts": 3}) == "45.7 [40.0, 100.0]"
