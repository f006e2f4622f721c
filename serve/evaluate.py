"""Held-out prompts put to an engine, and how many answers are exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compress.compose import BASE
from compress.errors import InputError
from router import user_turns
from router.jsonl import prompt_of, read_jsonl
from serve.answers import AnswerFile, Book
from serve.engine import Engine
from serve.prompts import file_ids
from serve.request import GenerationRequest, SamplingParams, Target

# An answer that is right ends within its reference's length; a few tokens more show that it does not.
SPARE_TOKENS = 4
ITEM_EXAMPLE = '{"prompt": "TEXT", "answer": "TEXT"}'


@dataclass(frozen=True)
class Item:
    """One held-out prompt with its reference answer."""

    messages: list[dict[str, Any]]
    answer: str


@dataclass
class Scores:
    """Exact match of one arm: task -> [n] of 0 and 1; for routed arms the share of right routes and
    of prompts that no expert was trusted with."""

    hits: dict[str, np.ndarray] = field(default_factory=dict)
    routed_right: float | None = None
    null_share: float | None = None

    def mean(self, task: str) -> float:
        return float(self.hits[task].mean())

    @property
    def average(self) -> float:
        """Mean over tasks, each task weighing the same."""
        return float(np.mean([self.mean(task) for task in self.hits]))


def read_data(folder: Path, tasks: Sequence[str], limit: int | None = None) -> dict[str, list[Item]]:
    """``folder/<task>.jsonl``: lines {"prompt" | "messages", "answer"}; at most ``limit`` a task.

    Raises InputError for a missing file, a bad line (file:line) or a task without prompts.
    """
    data = {}
    for task in tasks:
        path = folder / f"{task}.jsonl"
        if not path.is_file():
            raise InputError(f"{path}: no such file; every task needs its held-out prompts there")
        data[task] = read_jsonl(path, parse_item, ITEM_EXAMPLE)[:limit]
    return data


def parse_item(content: dict[str, Any]) -> Item:
    """One line of a data file: {"prompt" | "messages", "answer"}. Raises InputError for any other."""
    prompt, answer = prompt_of(content), content.get("answer")
    if not isinstance(answer, str) or not answer.strip():
        raise InputError('"answer" must be a non-empty text')
    return Item([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt, answer)


def score(
    engine: Engine,
    data: Mapping[str, Sequence[Item]],
    target: Callable[[str], Target],
    progress: Callable[[], None] | None = None,
    book: Book | None = None,
) -> Scores:
    """Greedy answers of ``engine`` to all prompts, exact match after stripping white space.

    ``target(task)`` says which weights answer a task's prompts. An answer must also end there: it
    may take the reference's tokens and a few more. Raises InputError where the chat template refuses a
    conversation.
    """
    targets = [target(task) for task, items in data.items() for _ in items]
    return score_each(engine, data, targets, progress, book)


def score_each(
    engine: Engine,
    data: Mapping[str, Sequence[Item]],
    targets: Sequence[Target],
    progress: Callable[[], None] | None = None,
    book: Book | None = None,
) -> Scores:
    """``score`` with a target of its own for every prompt, in the order of ``data``.

    What ``book`` has of these very weights is not asked again.
    """
    book = book or Book(AnswerFile(), "model")
    pairs = [(task, item) for task, items in data.items() for item in items]
    asked = [(task, item, target) for (task, item), target in zip(pairs, targets, strict=True)]
    kept = [book.get(item, target) for _, item, target in asked]
    fresh = [place for place, found in enumerate(kept) if found is None]
    if progress is not None:
        for _ in range(len(asked) - len(fresh)):
            progress()
    requests = [_request(engine, *asked[place][1:]) for place in fresh]
    for place, answer in zip(fresh, engine.answers(requests), strict=True):
        kept[place] = book.add(*asked[place], answer)
        if progress is not None:
            progress()
    hits: dict[str, list[float]] = {task: [] for task in data}
    right = null = 0
    for (task, item, _), found in zip(asked, kept, strict=True):
        assert found is not None
        hits[task].append(float(found.ended and found.text.strip() == item.answer.strip()))
        mixture = {expert: weight for expert, weight in found.mixture.items() if expert != BASE}
        right += bool(mixture) and max(mixture, key=lambda t: mixture[t]) == task
        null += not mixture
    scores = Scores({task: np.array(values) for task, values in hits.items()})
    if any(target.kind == "dynamic" for target in targets):
        scores.routed_right, scores.null_share = right / len(asked), null / len(asked)
    return scores


def _request(engine: Engine, item: Item, target: Target) -> GenerationRequest:
    ids = file_ids(engine.tokenizer, item.messages)
    reference = engine.tokenizer(item.answer, add_special_tokens=False)["input_ids"]
    params = SamplingParams(max_tokens=len(reference) + 1 + SPARE_TOKENS)
    return GenerationRequest(ids, params, target, user_turns(item.messages))
