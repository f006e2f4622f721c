"""Which features and which classifier: compared by cross-validation on the training prompts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import log_softmax
from sklearn.model_selection import StratifiedKFold

from router.calibration import fit_temperature
from router.classifiers import CLASSIFIER_KINDS, ClassifierKind, classifier_class
from router.features import FEATURE_KINDS, FeatureKind, Matrix
from router.novelty import Novelty
from router.scaling import Scaling

Array = np.ndarray
FOLDS = 5
# More prompts than these choose no better, and take longer.
MOST_COMPARED = 3000


@dataclass(frozen=True)
class Held:
    """What fits on four fifths of the prompts say of the other fifth: logits [n, K] and, where asked
    for, distances [n]."""

    logits: Array
    distances: Array


@dataclass(frozen=True)
class Candidate:
    """One feature and classifier: log-loss of each held-out prompt in nats [n], with the best
    temperature, and the share that is right."""

    features: FeatureKind
    classifier: ClassifierKind
    losses: Array
    accuracy: float

    @property
    def log_loss(self) -> float:
        return float(self.losses.mean())


def cross_fit(
    features: Matrix,
    labels: Array,
    tasks: int,
    kind: ClassifierKind,
    seed: int,
    *,
    novelty: bool = False,
    compared: int | None = None,
) -> Held:
    """Fit on all folds but one, apply to it, in turn. Scaling is fitted anew in each, too. ``compared``: see
    ``Novelty``."""
    logits, distances = np.zeros((len(labels), tasks)), np.zeros(len(labels))
    for train, held in _folds(labels, seed):
        scaling = Scaling.fit(features[train])
        x, own = scaling.apply(features[train]), scaling.apply(features[held])
        logits[held] = classifier_class(kind).fit(x, labels[train], tasks, seed).logits(own)
        if novelty:
            distances[held] = Novelty.fit(x, labels[train], seed, compared).distances(own)
    return Held(logits, distances)


def compare(
    features: Mapping[FeatureKind, Matrix],
    classifiers: Sequence[ClassifierKind],
    labels: Array,
    tasks: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Candidate]:
    """All pairs, in the order of what a prompt costs. Sparse features get no perceptron: it would have
    millions of weights, and logistic regression tells such features apart as well."""
    chosen = _sample(labels, seed)
    pairs = [
        (kind, classifier)
        for kind, classifier in itertools.product(
            sorted(features, key=FEATURE_KINDS.index), sorted(set(classifiers), key=CLASSIFIER_KINDS.index)
        )
        if classifier != "mlp" or not sparse.issparse(features[kind]) or set(classifiers) == {"mlp"}
    ]
    found = []
    for index, (kind, classifier) in enumerate(pairs):
        logits = cross_fit(features[kind][chosen], labels[chosen], tasks, classifier, seed).logits
        own = labels[chosen]
        scaled = log_softmax(logits / fit_temperature(logits, own), axis=1)
        losses = -scaled[np.arange(len(own)), own]
        right = float((logits.argmax(1) == own).mean())
        found.append(Candidate(kind, classifier, losses, right))
        if progress is not None:
            progress(index + 1, len(pairs))
    return found


def choose(candidates: Sequence[Candidate]) -> tuple[Candidate, str]:
    """The cheapest candidate that is not measurably worse than the best, and why.

    Not measurably worse: its log-loss exceeds the best one's by at most one standard error of the
    difference, prompt by prompt (Breiman et al. 1984, the one-standard-error rule).
    """
    best = min(candidates, key=lambda c: c.log_loss)
    for candidate in candidates:
        difference = candidate.losses - best.losses
        error = float(difference.std() / np.sqrt(len(difference)))
        if difference.mean() <= error:
            break
    name = f"{candidate.features} features with {candidate.classifier}"
    if candidate is best:
        return best, f"{name}: the lowest log-loss, and nothing cheaper comes within a standard error of it"
    return candidate, (
        f"{name}: the cheapest whose log-loss ({candidate.log_loss:.4f}) is within one standard error "
        f"({error:.4f}) of the lowest ({best.log_loss:.4f}, {best.features} with {best.classifier})"
    )


def table(candidates: Sequence[Candidate], chosen: Candidate) -> list[dict[str, Any]]:
    """The comparison for reports."""
    return [
        {
            "features": c.features,
            "classifier": c.classifier,
            "log_loss": c.log_loss,
            "accuracy": c.accuracy,
            "chosen": c is chosen,
        }
        for c in candidates
    ]


def _folds(labels: Array, seed: int) -> Iterator[tuple[Array, Array]]:
    fewest = int(np.bincount(labels).min())
    folds = StratifiedKFold(min(FOLDS, fewest), shuffle=True, random_state=seed)
    yield from folds.split(np.zeros(len(labels)), labels)


def _sample(labels: Array, seed: int) -> Array:
    """At most ``MOST_COMPARED`` prompts, evenly of each task, but never fewer than the folds need."""
    generator = np.random.default_rng(seed)
    tasks = np.unique(labels)
    share = max(FOLDS, MOST_COMPARED // len(tasks))
    own = [generator.permutation(np.flatnonzero(labels == task))[:share] for task in tasks]
    return np.sort(np.concatenate(own))
