"""The router as one object: conversations in, probabilities and a mixture out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import softmax

from router.blas import one_thread
from router.classifiers import Classifier
from router.features import Features, Matrix, Progress, query_features
from router.features.projection import ProjectionFeatures
from router.novelty import Novelty
from router.policy import Policy
from router.query import Query, Turn, clip
from router.scaling import Scaling
from router.settings import RouterSettings

# Of a longer conversation only the last turns are looked at; with any history below 1 the others
# hardly count.
MOST_TURNS = 8
# A turn of more characters for each of its tokens is clipped before it is tokenised, which would take long.
CHARACTERS = 32


@dataclass(frozen=True)
class Route:
    """Where one prompt goes.

    probabilities: of every task, summing to 1; confidence: the largest of them.
    known: whether the prompt is like those of some task. mixture: task weights, {} = shared base; the
    pretrained base is called ``base``.
    """

    probabilities: dict[str, float]
    confidence: float
    known: bool
    mixture: dict[str, float]


@dataclass(frozen=True)
class Router:
    """A trained router; its ``settings`` name one kind of features, one classifier and the layer.

    novelty: None for a router without prompts to compare with: to it, every prompt is known.
    fingerprint: of the shared base whose features it knows, "" for features without one.
    projection: the features of a router without prompts.
    report holds what was measured on held-out prompts, as ``router.train`` describes it.
    """

    tasks: tuple[str, ...]
    settings: RouterSettings
    scaling: Scaling
    classifier: Classifier
    calibration: float
    novelty: Novelty | None
    fingerprint: str = ""
    report: Mapping[str, Any] = field(default_factory=dict)
    projection: ProjectionFeatures | None = None

    def query(self, tokenizer: Any, turns: Sequence[str]) -> Query:
        """A user's turns, oldest first, as ``route`` wants them."""
        return encode(tokenizer, turns, self.settings)

    @property
    def needs_model(self) -> bool:
        """Whether the shared base has to be at hand in ``route``."""
        return self._extractor.needs_model

    def reads(self, query: Query) -> int:
        """How many tokens decoder layers have to read to score it."""
        if self.settings.features[0] not in ("hidden", "projection"):
            return 0
        return sum(len(turn.ids) for turn in query.turns)

    def route(self, model: Any, queries: Sequence[Query], progress: Progress | None = None) -> list[Route]:
        """Score queries with ``model``, the one that the router was trained on.

        A conversation without a user's word is unknown: all tasks are equally likely and no expert is
        trusted. Raises InputError for a model of another shape.
        """
        shown = [list(self._prefixes(query)) for query in queries]
        features = self.features(model, [query for own in shown for query in own], progress)
        scores = iter(self._scores(features))
        return [self._route([next(scores) for _ in own]) for own in shown]

    def decide(self, x: Matrix) -> list[Route]:
        """Routes of scaled features [n, d], each a conversation of its own."""
        return [self._route([score]) for score in self._scores(x)]

    def features(self, model: Any, queries: Sequence[Query], progress: Progress | None = None) -> Matrix:
        """Scaled features of queries that hold words."""
        found = query_features(self._extractor, model, queries, self.settings.history, progress)
        return self.scaling.apply(found)

    def probabilities(self, x: Matrix) -> np.ndarray:
        """Calibrated probabilities [n, K] of scaled features; rows sum to 1, and features that are not
        finite say nothing: all tasks are equally likely."""
        found: np.ndarray = softmax(self.classifier.logits(x) / self.calibration, axis=1)
        found[~np.isfinite(found).all(axis=1)] = 1 / len(self.tasks)
        return found

    @cached_property
    def _policy(self) -> Policy:
        return self.settings.policy()

    @cached_property
    def _extractor(self) -> Features:
        return self.projection or self.settings.extractor(self.settings.features[0])

    def known(self, x: Matrix, probabilities: np.ndarray) -> np.ndarray:
        """Which of the scaled features [n, d] are like prompts of the task they go to, bool [n]."""
        if self.novelty is None:
            # Without prompts to compare with, numbers are all that can be asked for.
            finite: np.ndarray = np.isfinite(x).all(axis=1)
            return finite
        return self.novelty.known(x, probabilities.argmax(axis=1))

    def _prefixes(self, query: Query) -> Iterator[Query]:
        # A sticky router decides turn by turn, as the conversation did.
        if not query.turns:
            return
        first = 1 if self.settings.sticky else len(query.turns)
        for end in range(first, len(query.turns) + 1):
            yield Query(query.turns[:end])

    def _scores(self, x: Matrix) -> list[tuple[dict[str, float], bool]]:
        if not x.shape[0]:
            return []
        with one_thread():
            probabilities = self.probabilities(x)
            known = self.known(x, probabilities).tolist()
        rows = (dict(zip(self.tasks, row, strict=True)) for row in probabilities.tolist())
        return list(zip(rows, known, strict=True))

    def _route(self, scores: Sequence[tuple[dict[str, float], bool]]) -> Route:
        if not scores:
            even = dict.fromkeys(self.tasks, 1 / len(self.tasks))
            return Route(even, 1 / len(self.tasks), False, self._policy.mixture({}, False))
        mixture: dict[str, float] = {}
        for probabilities, known in scores:
            if not self._stays(mixture, probabilities, known):
                mixture = self._policy.mixture(probabilities, known)
        probabilities, known = scores[-1]
        return Route(probabilities, max(probabilities.values()), known, mixture)

    def _stays(self, mixture: Mapping[str, float], probabilities: Mapping[str, float], known: bool) -> bool:
        experts = mixture.keys() & probabilities.keys()
        if not experts or not self.settings.sticky:
            return False
        task = max(experts, key=lambda t: mixture[t])
        return not known or max(probabilities.values()) <= probabilities[task] + self.settings.sticky


def encode(tokenizer: Any, turns: Sequence[str], settings: RouterSettings) -> Query:
    """A query of a user's turns: what a router is trained on is what it must be asked with."""
    limit = settings.max_tokens
    seen = MOST_TURNS if settings.history or settings.sticky else 1
    texts = [clip(turn.strip(), CHARACTERS * limit) for turn in turns[-seen:]]
    found = []
    for text in texts:
        ids = clip(list(tokenizer(text, verbose=False)["input_ids"]), limit) if text else []
        if ids:
            found.append(Turn(text, tuple(ids)))
    return Query(tuple(found))
