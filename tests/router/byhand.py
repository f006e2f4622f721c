"""A router of which every number is known: a turn's features are the shares of its letters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from router import Router, RouterSettings
from router.classifiers.logistic import Logistic
from router.novelty import Novelty
from router.scaling import Scaling
from tests import tiny
from tests.router.prompts import TASKS

# Letters of counting, shouting and talking, and one that belongs to none.
LETTERS = "0Ajz"
SLOPE = 10.0


def model() -> Any:
    """A real decoder in which each of ``LETTERS`` has a direction of its own, and other tokens have none."""
    made = tiny.model("llama")
    ids = tiny.tokenizer()(LETTERS)["input_ids"]
    with torch.no_grad():
        weight = made.get_input_embeddings().weight
        weight.zero_()
        weight[ids, range(len(ids))] = 1
    return made


def router(**settings: Any) -> Router:
    """Logits are ten times the shares of "0", "A" and "j"; unlike the tasks is what is half "z" or more."""
    width = 32
    references = np.eye(3, width, dtype=np.float32).repeat(5, axis=0)
    return Router(
        tuple(TASKS),
        RouterSettings(features=("embedding",), classifiers=("logistic",), **settings),
        # A normalised state of one direction is the root of the width long.
        Scaling(np.full(width, 1 / np.sqrt(width), dtype=np.float32)),
        Logistic(SLOPE * np.eye(3, width, dtype=np.float32), np.zeros(3, dtype=np.float32)),
        1.0,
        Novelty(references, np.arange(3, dtype=np.int32).repeat(5), np.full(3, 0.3)),
    )


def at(*shares: float) -> dict[str, float]:
    """Probabilities for these shares of each task's letter."""
    odds = [np.exp(SLOPE * share) for share in (*shares, 0.0, 0.0, 0.0)[:3]]
    return {task: float(own / sum(odds)) for task, own in zip(TASKS, odds, strict=True)}
