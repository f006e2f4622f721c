"""Replays: every arm on the same prompts."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar as reference

from compress.errors import InputError
from serve.evaluate import Item, Scores
from serve.experiments.statistics.paired import mcnemar, paired_report
from serve.experiments.statistics.replay import replay, targets
from serve.job import Answer
from serve.request import Routing
from tests import tiny
from tests.serve.experiments.statistics.drawn import NOW

MODELS = {"static": "static", "dynamic": "dynamic", "sums": "sums"}


def timed(hits: np.ndarray, seconds: np.ndarray) -> tuple[Scores, Scores]:
    half = len(hits) // 2
    return tuple(Scores({"a": values[:half], "b": values[half:]}) for values in (hits, seconds))


def answers(rate: float, seconds: float, n: int = 100, seed: int = 0) -> tuple[Scores, Scores]:
    generator = np.random.default_rng(seed)
    return timed((np.arange(n) % 10 < 10 * rate).astype(float), seconds * generator.uniform(0.8, 1.2, n))


def made(static, dynamic, guardrail=None):
    return paired_report("zoo", {"static": static, "dynamic": dynamic}, MODELS, now=NOW, guardrail=guardrail)


@pytest.mark.parametrize("seed", range(4))
def test_mcnemar_agrees_with_statsmodels(seed):
    control, arm = np.random.default_rng(seed).integers(0, 2, (2, 60))
    table = [[int(((control == i) & (arm == j)).sum()) for j in (0, 1)] for i in (0, 1)]
    assert mcnemar(control, arm) == pytest.approx(reference(table, exact=True).pvalue)
    assert mcnemar(control, control) == 1


@pytest.mark.parametrize(
    ("rate", "seconds", "guardrail", "verdict", "words"),
    [
        (0.9, 1.1, None, "switch", "+0.4 (95 % paired bootstrap interval +0.3"),
        (0.9, 1.1, 0.5, "switch", "within its guardrail of 50 %: switch."),
        (0.9, 1.1, 0.05, "stop", "beyond its guardrail of 5 %: stop that arm."),
        (0.2, 1.0, None, "keep", "keep static."),
        (
            0.5,
            1.0,
            None,
            "wait",
            "No difference shown between dynamic and static on exact_match by 100 prompts",
        ),
    ],
)
def test_the_decision_is_in_plain_words(rate, seconds, guardrail, verdict, words):
    report = made(answers(0.5, 1.0), answers(rate, seconds, seed=1), guardrail)
    assert report.verdicts[0].verdict == verdict and words in report.decision
    assert report.design == "paired" and report.srm is None
    assert report.model_validate_json(report.model_dump_json()) == report


def test_means_weigh_tasks_alike_and_effects_are_theirs():
    static = Scores({"a": np.zeros(90), "b": np.ones(10)}), Scores({"a": np.ones(90), "b": np.ones(10)})
    dynamic = Scores({"a": np.ones(90), "b": np.ones(10)}), Scores({"a": np.ones(90), "b": np.full(10, 3.0)})
    report = made(static, dynamic)
    exact, latency = (metric.arms[1] for metric in report.metrics)
    assert (exact.mean, exact.effect, latency.mean, latency.effect) == (1.0, 0.5, 2.0, 1.0)
    # Prompts that all say the same leave nothing to resample: no interval.
    assert {row.low for row in report.tasks} == {None}


def test_a_handful_of_prompts_that_agree_is_not_certain():
    report = made(answers(0, 1, 4), answers(1, 1, 4))
    assert report.metrics[0].arms[1].low == 1 and report.metrics[0].arms[1].p_value == 0.125
    assert report.verdicts[0].verdict == "wait"


def test_two_arms_against_the_control_share_the_error():
    found = {"static": answers(0.5, 1), "dynamic": answers(0.9, 1), "sums": answers(0.9, 1)}
    report = paired_report("zoo", found, MODELS, now=NOW)
    assert report.metrics[0].level == 0.975 and len(report.verdicts) == 2
    one = made(found["static"], found["dynamic"]).metrics[0].arms[1]
    assert report.metrics[0].arms[1].low <= one.low


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["static"], "at least two"),
        (["static", "static"], "at least two"),
        (["static", "none"], "no arm 'none'"),
    ],
)
def test_arms_that_make_no_experiment_are_refused(names, sentence):
    with pytest.raises(InputError, match=sentence):
        targets(names, ["sums"])


class Parrot:
    """An engine whose static answers are wrong and whose dynamic ones are right."""

    def __init__(self) -> None:
        self.tokenizer, self.asked = tiny.tokenizer(), []

    def answers(self, requests):
        for request in requests:
            self.asked.append(request.target.kind)
            text = "yes" if request.target.kind == "dynamic" else "no"
            yield Answer(text, (5,), Routing({}, "router", 0.9, "dynamic", 1), "stop")


def test_every_arm_answers_every_prompt_and_the_first_one_changes():
    parrot, done = Parrot(), []
    data = {"a": [Item([{"role": "user", "content": "x"}], "yes")] * 2, "b": []}
    data["b"] = [Item([{"role": "user", "content": "y"}], "yes")]
    found = replay(parrot, data, targets(["static", "dynamic"], []), lambda: done.append(1))
    warm, asked = parrot.asked[:2], parrot.asked[2:]
    assert warm == ["static", "dynamic"]
    assert asked == ["static", "dynamic", "dynamic", "static", "static", "dynamic"] and len(done) == 6
    assert {arm: scores.average for arm, (scores, _) in found.items()} == {"static": 0, "dynamic": 1}
    assert all((times.hits["a"] > 0).all() and len(times.hits["a"]) == 2 for _, times in found.values())
