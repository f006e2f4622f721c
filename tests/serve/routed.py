"""Bundles with routers over three kinds of prompts that tiny models can tell apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.bundle import Bundle, edit
from compress.compose import factor_weights, load_composed
from router import Prompt, RouterSettings, save_router, train_router
from tests import tiny

WORDS = {"t0": "{} + {} =", "t1": "spell {} then {}", "t2": "PAINT {} OVER {}"}


def shared_base(bundle: Bundle) -> Any:
    """What the router was trained on, composed: nothing of the engine is used."""
    return load_composed(bundle, factor_weights({}, bundle.tasks, bundle.scalings))


def add_router(path: Path, words: Mapping[str, str] = WORDS, **settings: Any) -> None:
    """Train a router for the bundle at ``path``, which has the tasks of ``words``, and put it there."""
    bundle = Bundle.open(path)
    prompts = [Prompt(task, text.format(i, i + 3)) for task, text in words.items() for i in range(40)]
    router, _ = train_router(
        shared_base(bundle),
        tiny.tokenizer(),
        prompts,
        bundle.tasks,
        RouterSettings(**{"layer": 1, "classifiers": "logistic", **settings}),
        fingerprint=bundle.fingerprint,
    )
    with edit(path) as folder:
        save_router(router, folder / "router")
