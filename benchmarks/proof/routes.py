"""Where the router of a bundle sends prompts, asked once, and what policies make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compress.bundle import Bundle
from compress.compose import factor_weights, load_composed
from compress.loading import load_tokenizer
from router import Route, load_router, user_turns
from router.policy import Policy
from serve.comparison import Data
from serve.request import Target


@dataclass(frozen=True)
class Routes:
    """Scores of prompts, in the order of the data, and the router's own policy."""

    routes: Sequence[Route]
    policy: Policy

    def targets(self, policy: Policy) -> list[Target]:
        """What ``policy`` makes of the scores."""
        return [Target("mixture", mixture=policy.mixture(r.probabilities, r.known)) for r in self.routes]


def routes_of(bundle: Bundle, data: Data) -> Routes:
    """The bundle's router on ``data``."""
    model = load_composed(bundle, factor_weights({}, bundle.carried, bundle.scalings)).eval()
    router = load_router(bundle.path / "router", bundle.fingerprint, bundle.tasks)
    tokenizer = load_tokenizer(bundle.base)
    spoken = [user_turns(item.messages) for items in data.values() for item in items]
    queries = [router.query(tokenizer, turns) for turns in spoken]
    return Routes(router.route(model, queries), router.settings.policy())


def tasks_of(data: Data) -> list[str]:
    """The task of every prompt, in the order of the data."""
    return [task for task, items in data.items() for _ in items]


def blends(policy: Policy, tasks: int) -> Mapping[str, Policy]:
    """The policies that are compared: one expert; two, and all, by probability however sure the router is;
    and two where it is unsure, as ``top_k: 2`` in a recipe does."""
    update = {"certain": 1.0, "temperature": 1.0}
    return {
        "top-1": policy.model_copy(update={"top_k": 1}),
        "top-2": policy.model_copy(update={"top_k": 2, **update}),
        "soft": policy.model_copy(update={"top_k": tasks, **update}),
        "unsure top-2": policy.model_copy(update={"top_k": 2, "certain": 0.9, "temperature": 0.5}),
    }
