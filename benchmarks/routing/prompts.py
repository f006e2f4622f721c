"""Prompts that no router here was trained on, by kind, each with the task that it belongs to or None."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

Labelled = Sequence[tuple[str | None, str]]
# Prompts a task: to measure with beside the test split, and to train on at most.
MEASURED, MOST = 400, 1000
# Of letters that a bad typist gets wrong.
TYPOS = 0.05
# Another question in the same words: the template gives the task away, and no expert was trained for it.
CHANGES = {
    "reversal": (r"Reverse this list of words", "Sort this list of words by length"),
    "arithmetic": r"( \d+) [+-] (\d+ =)",
    "family": (r"What is (\S+) to (\S+)\?.*", r"Who is older, \1 or \2? Respond only with the name."),
    "recall": (r"Who .*", "How many people are named? Reply only with a number."),
}
# Asked in the same words as another task, so that only the text tells which is meant.
LOOKALIKES = ("movies", "products", "tweets", "editorials", "invoices", "meetings")


def split(data: Path, tasks: Sequence[str]) -> tuple[Labelled, Labelled]:
    """To train routers on, and to measure them with. Of the experts' own training prompts, shuffled, the
    first ``MEASURED`` a task are measured with, beside all of ``test``; the others train, 200 of them a task
    where nothing else is said."""
    train: list[tuple[str | None, str]] = []
    measured: list[tuple[str | None, str]] = []
    for task in tasks:
        own = _texts(data / "train" / f"{task}.jsonl")
        random.Random(task).shuffle(own)
        train += [(task, text) for text in own[MEASURED : MEASURED + MOST]]
        measured += [(task, text) for text in (*_texts(data / "test" / f"{task}.jsonl"), *own[:MEASURED])]
    return train, measured


def kinds(data: Path, tasks: Sequence[str]) -> dict[str, Labelled]:
    """Kind -> prompts, of other words and of no task."""
    tests = {task: _texts(data / "test" / f"{task}.jsonl") for task in tasks}
    found: dict[str, Labelled] = {
        "with typos": [(task, _typed(text)) for task, own in tests.items() for text in own],
        "reworded": [
            (line["task"], line["prompt"])
            for line in _lines(data / "reworded.jsonl")
            if line["task"] in tasks
        ],
        "same format, another operation": [(None, text) for text in _changed(tests)],
        "of no task, written for this": [(None, text) for text in _texts(data / "none.jsonl")],
    }
    for path in sorted((data / "foreign").glob("*.jsonl")):
        found[f"foreign: {path.stem}"] = [(None, text) for text in _texts(path)]
    return found


def pairs(data: Path, tasks: Sequence[str], count: int = 200) -> list[tuple[tuple[str, str], str]]:
    """Prompts that ask two things at once, with both tasks."""
    generator = random.Random(0)
    tests = {task: _texts(data / "test" / f"{task}.jsonl") for task in tasks if task not in LOOKALIKES}
    if len(tests) < 2:
        return []
    found = []
    for _ in range(count):
        first, second = generator.sample(sorted(tests), 2)
        text = f"{generator.choice(tests[first])}\n\nAlso: {generator.choice(tests[second])}"
        found.append(((first, second), text))
    return found


def _changed(tests: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for task, change in CHANGES.items():
        for text in tests.get(task, [])[:100]:
            pattern, by = change if isinstance(change, tuple) else (change, r"\1 * \2")
            other, times = re.subn(pattern, by, text)
            if times:
                yield other


def _typed(text: str) -> str:
    generator = random.Random(text)
    letters = list(text)
    for i in range(len(letters) - 1):
        if letters[i].isalpha() and generator.random() < TYPOS:
            kind = generator.randrange(3)
            if kind == 0:
                letters[i], letters[i + 1] = letters[i + 1], letters[i]
            else:
                letters[i] = "" if kind == 1 else letters[i] * 2
    return "".join(letters)


def _texts(path: Path) -> list[str]:
    return [line["prompt"] for line in _lines(path)]


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
