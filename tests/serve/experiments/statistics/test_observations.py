"""Records joined by response and sorted by unit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compress.errors import InputError
from serve.experiments.statistics.observations import observe, unit_means
from tests.serve.experiments.statistics.drawn import START, experiment, said, served

TRIAL = experiment({"name": "reward"}, {"name": "latency", "direction": "lower"})
BINARY = experiment({"name": "thumbs", "kind": "binary"})


def means(seen, metric="reward"):
    found, _ = unit_means(seen.metrics[metric], len(seen.arm))
    return dict(zip(seen.names, found.tolist(), strict=True))


def test_a_unit_is_the_mean_of_its_responses_however_many():
    shown = [served(i, "static", "often", metrics={"latency": float(i)}) for i in range(9)]
    shown.append(served(9, "dynamic", "once", metrics={"latency": 7.0}))
    seen = observe(TRIAL, shown, [said(0, reward=1.0), said(3, reward=0.0), said(9, reward=5.0)])
    assert means(seen) == {"often": 0.5, "once": 5.0}
    assert means(seen, "latency") == {"often": 4.0, "once": 7.0}
    assert seen.responses.tolist() == [9, 1] and seen.arm.tolist() == [0, 1]


def test_a_unit_of_several_arms_is_left_out_and_counted():
    shown = [served(0, "static", "moved"), served(1, "dynamic", "moved"), served(2, "dynamic", "stayed")]
    seen = observe(TRIAL, shown, [said(0, reward=1.0), said(2, reward=2.0)])
    assert means(seen) == {"stayed": 2.0} and seen.mixed == 1
    # It fell to its first arm all the same, which is what sample ratios are about.
    assert seen.first_arm.tolist() == [0, 1]


def test_what_nobody_saw_is_no_observation():
    shown = [served(0, "static"), served(1, "dynamic", shadow=True, beside="r0"), served(2, "dynamic", "u0")]
    assert observe(TRIAL, shown[:2], []).mixed == 0
    assert observe(TRIAL, shown[:2], []).shadows == 1
    assert observe(TRIAL, shown, []).mixed == 1


def test_other_experiments_and_arms_are_no_part_of_this_one():
    shown = [served(0, "static"), served(1, "static", experiment="other"), served(2, "gone")]
    assert observe(TRIAL, shown, []).names == ["u0"]


def test_a_response_recorded_twice_counts_once():
    shown = [served(0, "static", metrics={"latency": 1.0}), served(0, "static", metrics={"latency": 9.0})]
    seen = observe(TRIAL, shown, [])
    assert means(seen, "latency") == {"u0": 1.0} and seen.responses.tolist() == [1]


def test_the_latest_word_of_a_key_counts_and_keys_are_averaged():
    told = [said(0, key="a", reward=1.0), said(0, key="a", reward=3.0, moment=START + 9)]
    told += [
        said(0, key="a", reward=8.0, moment=START + 5),
        said(0, key="b", reward=0.0),
        said(7, reward=1.0),
    ]
    seen = observe(TRIAL, [served(0, "static")], told)
    assert means(seen) == {"u0": 1.5} and seen.unmatched == 1
    assert seen.metrics["reward"].moment.tolist() == [START + 9]


def test_feedback_does_not_overrule_what_the_server_measured():
    seen = observe(TRIAL, [served(0, "static", metrics={"latency": 1.0})], [said(0, latency=0.0)])
    assert means(seen, "latency") == {"u0": 1.0}
    assert len(observe(TRIAL, [served(0, "static")], [said(0, latency=0.0)]).metrics["latency"].value) == 0


def test_versions_and_tasks_are_those_of_the_response():
    tasks = ["base", "c", None]
    shown = [served(i, "static", "u", version=2 + i, task=task) for i, task in enumerate(tasks)]
    seen = observe(TRIAL, reversed(shown), [said(i, reward=1.0) for i in range(3)])
    assert seen.version.tolist() == [2] and seen.tasks == ("c", "base"), "no expert stands last"
    assert seen.metrics["reward"].task.tolist() == [1, 0, -1], "what is not known belongs to no task"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(InputError, match=r"response r0: its reward is (nan|inf); only finite numbers"):
        observe(TRIAL, [served(0, "static")], [said(0, reward=value)])
    with pytest.raises(InputError, match=r"response r0: its latency is (nan|inf)"):
        observe(TRIAL, [served(0, "static", metrics={"latency": value})], [])


def test_a_binary_metric_has_no_other_values():
    with pytest.raises(InputError, match=r"its thumbs is 0\.5, and the experiment declares it binary"):
        observe(BINARY, [served(0, "static")], [said(0, thumbs=0.5)])


def test_nothing_is_nothing():
    seen = observe(TRIAL, [], [])
    assert seen.names == [] and len(seen.metrics["reward"].value) == 0 and np.isnan(seen.latest)


def test_the_order_of_records_does_not_matter():
    generator = np.random.default_rng(0)
    shown = [served(i, "static" if i % 3 else "dynamic", f"u{i % 3}{i % 5}") for i in range(40)]
    told = [said(i, reward=float(i)) for i in range(40)]
    one = observe(TRIAL, shown, told)
    other = observe(
        TRIAL, [shown[i] for i in generator.permutation(40)], [told[i] for i in generator.permutation(40)]
    )
    assert means(one) == means(other) and one.names == other.names
    assert replace(one, metrics={}, names=[]).mixed == other.mixed
