"""Scores of a base and of its fine-tune on held-out items, with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.stats import binomtest

from serve.evaluate import Item, Scores, score
from serve.intervals import paired_interval
from serve.plainmodels import plain_engine
from serve.request import Target
from serve.settings import EngineSettings


class Share(BaseModel):
    """A share of prompts answered exactly, with its 95 % Wilson interval."""

    model_config = ConfigDict(frozen=True)
    value: float
    low: float
    high: float


class ExactMatch(BaseModel):
    """Exact match on ``prompts`` held-out prompts. ``constant`` is the share of the commonest answer:
    what a model that always gives it would score. ``gain`` is expert minus base, with a paired 95 %
    bootstrap interval."""

    model_config = ConfigDict(frozen=True)
    prompts: int
    base: Share
    expert: Share
    constant: float
    gain: Share


def answer_all(
    model: Any,
    folder: Path,
    task: str,
    items: Sequence[Item],
    settings: EngineSettings,
    done: Callable[[], None],
) -> Scores:
    """Greedy answers of ``model`` to ``items``; ``folder`` holds its tokenizer, ``done`` counts one."""
    with plain_engine(lambda: model, folder, settings) as engine:
        return score(engine, {task: items}, lambda _: Target("static"), done)


def exact_match(task: str, items: Sequence[Item], base: Scores, expert: Scores) -> ExactMatch:
    """The scores of both on the same ``items``."""
    gain = paired_interval(expert, base)
    commonest = Counter(item.answer for item in items).most_common(1)[0][1]
    return ExactMatch(
        prompts=len(items),
        base=share(base.hits[task]),
        expert=share(expert.hits[task]),
        constant=commonest / len(items),
        gain=Share(value=gain.value / 100, low=gain.low / 100, high=gain.high / 100),
    )


def share(hits: np.ndarray) -> Share:
    """A share with its Wilson (1927) score interval. ``hits``: [n] of 0 and 1."""
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return Share(value=float(hits.mean()), low=float(interval.low), high=float(interval.high))
