"""Two tasks asked in one prompt: how many of the two answers are given, by what answers.

Scored is whether each expected answer stands, as whole words, in what was said; each task's own expert asked
the two questions one by one says what there is to be had.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.proof.bundles import bundle
from benchmarks.proof.routes import blends, routes_of
from benchmarks.proof.zoo import RESULTS, ZOOS, Work, write
from compress.bundle import Bundle
from compress.checkpoints import Checkpoint
from compress.compose import BASE
from compress.sources import resolve
from router import user_turns
from serve.engine import Engine
from serve.evaluate import Item
from serve.plainmodels import load, plain_engine
from serve.prompts import file_ids
from serve.request import GenerationRequest, SamplingParams, Target

# One of the four that share their question, whose labels mean nothing to the others, and all templates.
TASKS = ("reversal", "family", "arithmetic", "recall", "movies")
COUNT = 200
TOKENS = 48
RESAMPLES = 10_000


def pairs(work: Work) -> None:
    """The shares of answers given, with intervals."""
    path = RESULTS / "proof_pairs.json"
    if path.is_file():
        return
    zoo = ZOOS["lora"]
    asked = two_at_once(work.test(zoo.recipe.tasks), COUNT)
    made = Bundle.open(bundle("lora-exact"))
    data = {"pairs": [Item([{"role": "user", "content": text}], "-") for text, _ in asked]}
    base = Checkpoint.open(resolve(zoo.recipe.base)).folder
    hits: dict[str, np.ndarray] = {}
    with plain_engine(partial(load, base, work.settings), base, work.settings) as engine:
        hits["base"] = _hits(
            engine, asked, [Target("static")] * len(asked), work.bars.stage("base", len(asked))
        )
    routes = routes_of(made, data)
    known = float(np.mean([bool(set(route.mixture) - {BASE}) for route in routes.routes]))
    arms = {name: routes.targets(policy) for name, policy in blends(routes.policy, len(made.tasks)).items()}
    arms["both, half each"] = [
        Target("mixture", mixture={task: 0.5 for task, _ in answers}) for _, answers in asked
    ]
    arms["the first one's expert"] = [Target("task", task=answers[0][0]) for _, answers in asked]
    engine = Engine.open(made.path, work.settings)
    try:
        shown = partial(work.bars.stage, total=len(asked))
        hits["static"] = _hits(engine, asked, [Target("static")] * len(asked), shown("static"))
        for arm, targets in arms.items():
            hits[arm] = _hits(engine, asked, targets, shown(arm))
        hits["one by one, own experts"] = _apart(engine, asked, work)
    finally:
        engine.stop()
    write(
        path,
        {
            "prompts": len(asked),
            "routed to an expert": known,
            "arms": {a: _facts(h) for a, h in hits.items()},
        },
    )


Asked = Sequence[tuple[str, list[tuple[str, Item]]]]
"""Texts, each with its two (task, item)."""


def two_at_once(test: dict[str, list[Item]], count: int) -> Asked:
    """Two questions of different tasks, one behind the other."""
    generator = random.Random(0)
    found = []
    for _ in range(count):
        both = [(task, generator.choice(test[task])) for task in generator.sample(TASKS, 2)]
        first, second = (item.messages[0]["content"] for _, item in both)
        found.append((f"{first}\n\nThen answer this too:\n{second}", both))
    return found


def _hits(
    engine: Engine, asked: Asked, targets: Sequence[Target], progress: Callable[[], None]
) -> np.ndarray:
    """[n, 2]: whether the first and the second answer were given."""
    requests = [
        _request(engine, [{"role": "user", "content": text}], target)
        for (text, _), target in zip(asked, targets, strict=True)
    ]
    hits = []
    for (_, both), answer in zip(asked, engine.answers(requests), strict=True):
        hits.append([stands_in(item.answer, answer.text) for _, item in both])
        progress()
    return np.array(hits, dtype=float)


def _apart(engine: Engine, asked: Asked, work: Work) -> np.ndarray:
    """[n, 2]: each question asked alone of its own expert."""
    single = [(task, item) for _, both in asked for task, item in both]
    requests = [_request(engine, item.messages, Target("task", task=task)) for task, item in single]
    progress = work.bars.stage("one by one", len(single))
    hits = []
    for (_, item), answer in zip(single, engine.answers(requests), strict=True):
        hits.append(stands_in(item.answer, answer.text))
        progress()
    return np.array(hits, dtype=float).reshape(-1, 2)


def _request(engine: Engine, messages: list[dict[str, Any]], target: Target) -> GenerationRequest:
    ids = file_ids(engine.tokenizer, messages)
    return GenerationRequest(ids, SamplingParams(max_tokens=TOKENS), target, user_turns(messages))


def stands_in(expected: str, text: str) -> bool:
    """Whether ``expected`` stands in ``text`` as whole words, letter case aside."""
    return re.search(rf"(?<!\w){re.escape(expected.strip())}(?!\w)", text, re.IGNORECASE) is not None


def _facts(hits: np.ndarray) -> dict[str, Any]:
    """Percent of answers given, of prompts with both, with 95 % bootstrap intervals over prompts."""
    drawn = np.random.default_rng(0).integers(0, len(hits), (RESAMPLES, len(hits)))
    found = {}
    for name, values in (
        ("answers", hits.mean(1)),
        ("both", hits.min(1)),
        ("first", hits[:, 0]),
        ("second", hits[:, 1]),
    ):
        low, high = np.percentile(values[drawn].mean(1), [2.5, 97.5])
        found[name] = [100 * float(values.mean()), 100 * float(low), 100 * float(high)]
    return found
