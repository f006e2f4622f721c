"""Selection: cross-validation against scikit-learn's, and the one-standard-error rule by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from router.calibration import smoothed_loss
from router.classifiers import CLASSIFIER_KINDS, ClassifierKind, classifier_class
from router.features import FeatureKind, Matrix
from router.scaling import Scaling
from router.selection import Candidate, choose, compare, cross_fit, table
from tests.router import blobs


def candidate(losses: list[float], features: FeatureKind = "tfidf") -> Candidate:
    return Candidate(features, "logistic", np.array(losses), 0.5)


BEST = [1.0, 2.0, 3.0, 4.0]


def worse(*differences: float) -> list[float]:
    return [loss + difference for loss, difference in zip(BEST, differences, strict=True)]


# Worse by 0.5 each, with a standard error of sqrt(2.25 / 4) = 0.75 and of sqrt(0.25 / 4) = 0.25.
NEAR, FAR = worse(2, -1, 2, -1), worse(1, 0, 1, 0)


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [
        ([NEAR, BEST], 0),
        ([FAR, BEST], 1),
        ([BEST, NEAR], 0),
        ([FAR, NEAR, BEST], 1),
        ([NEAR, NEAR, BEST], 0),
        ([BEST, BEST], 0),
        # Every prompt a little worse: a small difference, but no doubt about it.
        ([worse(0.01, 0.01, 0.01, 0.010001), BEST], 1),
        ([FAR], 0),
    ],
)
def test_the_cheapest_within_a_standard_error_of_the_best(losses: list[list[float]], chosen: int) -> None:
    candidates = [candidate(row) for row in losses]
    found, _ = choose(candidates)
    assert found is candidates[chosen]


def test_the_reason_says_what_was_compared() -> None:
    best = candidate(BEST, "hidden")
    _, reason = choose([candidate(FAR), best])
    assert reason.startswith("hidden features with logistic: the lowest log-loss, and nothing cheaper")
    _, reason = choose([candidate(NEAR), best])
    assert reason.startswith("tfidf features with logistic: the cheapest whose log-loss (3.0000) is within")
    assert "(0.7500) of the lowest (2.5000, hidden with logistic)" in reason


def test_held_out_probabilities_equal_scikit_learns() -> None:
    features, labels = blobs.dense(3)
    # Features divided by the root of their number: a penalty that many times weaker.
    pipeline = make_pipeline(
        StandardScaler(), LogisticRegression(C=10 / blobs.WIDTH, max_iter=2000, tol=1e-7)
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=4)
    expected = cross_val_predict(
        pipeline, features.astype(np.float64), labels, cv=folds, method="predict_proba"
    )
    found = softmax(cross_fit(features, labels, 3, "logistic", seed=4).logits, axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-2)


def test_held_out_distances_are_to_prompts_of_other_folds() -> None:
    features, labels = blobs.dense(3)
    expected = np.zeros(len(labels))
    for train, held in StratifiedKFold(5, shuffle=True, random_state=4).split(features, labels):
        deviation = features[train].std(0, dtype=np.float64)
        neighbours = NearestNeighbors(n_neighbors=5, metric="cosine").fit(features[train] / deviation)
        expected[held] = neighbours.kneighbors(features[held] / deviation)[0][:, -1]
    found = cross_fit(features, labels, 3, "logistic", seed=4, novelty=True).distances
    np.testing.assert_allclose(found, expected, atol=1e-3)


def noise(kind: str) -> tuple[Matrix, np.ndarray]:
    """Features that say nothing of their labels, but more of them than prompts."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60)
    if kind == "dense":
        return generator.normal(size=(120, 300)).astype(np.float32), labels
    return sparse.csr_matrix(generator.poisson(0.1, size=(120, 400)), dtype=np.float32), labels


@pytest.mark.parametrize("classifier", CLASSIFIER_KINDS)
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_no_prompt_sees_itself(kind: str, classifier: ClassifierKind) -> None:
    features, labels = noise(kind)
    x = Scaling.fit(features).apply(features)
    seen = classifier_class(classifier).fit(x, labels, 2, seed=0).logits(x)
    held = cross_fit(features, labels, 2, classifier, seed=0).logits
    assert (seen.argmax(1) == labels).mean() > 0.8
    # Four standard errors of guessing 120 times.
    assert (held.argmax(1) == labels).mean() == pytest.approx(0.5, abs=0.18)


@pytest.mark.parametrize("fewest", [2, 3, 7])
def test_a_small_task_is_in_every_fold(fewest: int) -> None:
    features, labels = blobs.dense(2)
    features, labels = features[: 40 + fewest], labels[: 40 + fewest]
    held = cross_fit(features, labels, 2, "logistic", seed=0, novelty=True)
    assert held.logits.any(axis=1).all() and (held.distances > 0).all()


@pytest.fixture(scope="module")
def both() -> tuple[dict[FeatureKind, Matrix], np.ndarray]:
    features, labels = blobs.dense(2)
    # Given in another order than that of costs.
    return {"tfidf": blobs.sparse_counts(2)[0], "embedding": features}, labels


def test_all_pairs_are_compared_the_cheapest_first(
    both: tuple[dict[FeatureKind, Matrix], np.ndarray],
) -> None:
    seen: list[tuple[int, int]] = []
    found = compare(*both[:1], CLASSIFIER_KINDS[::-1], both[1], 2, 0, lambda *now: seen.append(now))
    assert [(c.features, c.classifier) for c in found] == [
        ("embedding", "logistic"),
        ("embedding", "mlp"),
        ("embedding", "prototypes"),
        # A perceptron of hashed n-grams would have millions of weights.
        ("tfidf", "logistic"),
        ("tfidf", "prototypes"),
    ]
    assert seen == [(done, 5) for done in range(1, 6)]
    rows = table(found, found[3])
    assert [row["chosen"] for row in rows] == [False, False, False, True, False]
    assert rows[3]["log_loss"] == found[3].losses.mean() and rows[3]["accuracy"] == found[3].accuracy


def test_sparse_features_get_a_perceptron_where_nothing_else_is_asked_for(
    both: tuple[dict[FeatureKind, Matrix], np.ndarray],
) -> None:
    found = compare(*both[:1], ("mlp",), both[1], 2, 0)
    assert [(c.features, c.classifier) for c in found] == [("embedding", "mlp"), ("tfidf", "mlp")]


@pytest.mark.parametrize("kind", blobs.MAKERS)
def test_losses_are_held_out_and_at_the_best_temperature(kind: str) -> None:
    features, labels = blobs.MAKERS[kind](3)
    (found,) = compare({"embedding": features}, ("logistic",), labels, 3, seed=2)
    logits = cross_fit(features, labels, 3, "logistic", seed=2).logits
    grid = np.geomspace(0.05, 20, 2000)
    best = grid[np.argmin([smoothed_loss(logits, labels, temperature) for temperature in grid])]
    losses = -np.log(softmax(logits / best, axis=1)[np.arange(len(labels)), labels])
    np.testing.assert_allclose(found.losses, losses, rtol=0.05, atol=1e-4)
    assert found.log_loss == pytest.approx(losses.mean(), rel=0.01)
    assert found.losses.shape == labels.shape
    assert found.accuracy == (logits.argmax(1) == labels).mean()


def test_no_more_prompts_are_compared_than_tell_more() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [3500, 900, 40])
    features = (labels[:, None] + generator.normal(size=(len(labels), 3))).astype(np.float32)
    (found,) = compare({"embedding": features}, ("prototypes",), labels, 3, seed=0)
    assert len(found.losses) == 1000 + 900 + 40


def test_a_classifier_named_twice_is_one() -> None:
    counts, labels = blobs.sparse_counts(2)
    assert len(compare({"tfidf": counts}, ("mlp", "mlp"), labels, 2, 0)) == 1
