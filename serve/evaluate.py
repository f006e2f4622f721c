"""The table: every task under the base, static, dynamic, oracle-routed and its own expert."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import InputError
from router import user_turns
from router.jsonl import prompt_of, read_jsonl
from serve.engine import Engine
from serve.prompts import file_ids
from serve.request import GenerationRequest, SamplingParams, Target

# An answer that is right ends within its reference's length; a few tokens more show that it does not.
SPARE_TOKENS = 4
RESAMPLES = 10_000
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
) -> Scores:
    """Greedy answers of ``engine`` to all prompts, exact match after stripping white space.

    ``target(task)`` says which weights answer a task's prompts. An answer must also end there: it
    may take the reference's tokens and a few more. Raises InputError where the chat template refuses a
    conversation.
    """
    pairs = [(task, item) for task, items in data.items() for item in items]
    requests = [_request(engine, item, target(task)) for task, item in pairs]
    answers = engine.generate(requests, progress)
    hits: dict[str, list[float]] = {task: [] for task in data}
    right = null = 0
    for (task, item), answer in zip(pairs, answers, strict=True):
        exact = answer.finish_reason == "stop" and answer.text.strip() == item.answer.strip()
        hits[task].append(float(exact))
        mixture = answer.routing.mixture
        right += bool(mixture) and max(mixture, key=lambda t: mixture[t]) == task
        null += not mixture
    scores = Scores({task: np.array(values) for task, values in hits.items()})
    if any(request.target.kind == "dynamic" for request in requests):
        scores.routed_right, scores.null_share = right / len(pairs), null / len(pairs)
    return scores


def _request(engine: Engine, item: Item, target: Target) -> GenerationRequest:
    ids = file_ids(engine.tokenizer, item.messages)
    reference = engine.tokenizer(item.answer, add_special_tokens=False)["input_ids"]
    params = SamplingParams(max_tokens=len(reference) + 1 + SPARE_TOKENS)
    return GenerationRequest(ids, params, target, user_turns(item.messages))


@dataclass(frozen=True)
class Interval:
    """A difference of averages with its paired 95 % bootstrap interval, in points of 100."""

    difference: float
    low: float
    high: float


def paired_interval(a: Scores, b: Scores, seed: int = 0) -> Interval:
    """``a`` minus ``b``: prompts are resampled within each task (Efron 1979, percentile method)."""
    generator = np.random.default_rng(seed)
    means = []
    for task in a.hits:
        difference = a.hits[task] - b.hits[task]
        drawn = generator.integers(0, len(difference), (RESAMPLES, len(difference)))
        means.append(difference[drawn].mean(1))
    resampled = 100 * np.mean(means, axis=0)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(100 * (a.average - b.average), float(low), float(high))
