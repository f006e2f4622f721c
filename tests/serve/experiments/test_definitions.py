"""Experiments as people write them: what is read, and the sentence that says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.errors import InputError
from router.policy import Policy
from serve.experiments.definitions import check, parsed, read_experiments, target
from serve.experiments.spec import Arm
from serve.request import Target
from tests.serve.experiments.made import ARMS, METRICS, arms, declared, experiment


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(content: Any) -> Path:
        path = tmp_path / "experiments.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


def test_one_experiment_or_a_list_of_them(write):
    assert read_experiments(write(declared("a"))) == [experiment("a")]
    both = read_experiments(write({"experiments": [declared("a"), declared("b", layer="other")]}))
    assert [one.name for one in both] == ["a", "b"]


def test_times_in_yaml_have_a_zone(write):
    text = yaml.safe_dump(declared()) + "start: 2026-01-01T00:00:00Z\nstop: 2026-02-01 00:00:00+01:00\n"
    (found,) = read_experiments(write(text))
    assert found.stop.timestamp() - found.start.timestamp() == 31 * 86400 - 3600
    with pytest.raises(InputError, match=r"start: .*timezone"):
        read_experiments(write(yaml.safe_dump(declared()) + "start: 2026-01-01T00:00:00\n"))


WRONG = [
    ({"experiments": []}, "at least one experiment"),
    ({"experiments": [3]}, r"experiments\[0\]: an experiment is a mapping"),
    ({"experiments": [declared()], "salt": "x"}, "beside 'experiments' there is 'salt'"),
    ({"experiments": [declared(), declared()]}, "experiment 'trial' is given twice"),
    ({"experiments": [declared(), declared("b", metric=[])]}, r"\[1\]: unknown key 'metric'; .* 'metrics'"),
    (declared(arms=[{**ARMS[0], "shares": 0.5}, ARMS[1]]), r"arms\.0\.shares'; did you mean 'share'"),
    (declared(arms=[{**ARMS[1], "policy": {"treshold": 0.3}}, ARMS[0]]), "did you mean 'threshold'"),
    (declared(arms=arms(a=0.5, b=0.4)), "shares must sum to 1, and they sum to 0.9"),
    (declared(arms=arms(a=0.99999, b=0.00001)), "arm 'b': the share 1e-05 is below 0.0001"),
    (declared(eligible={"share": 1e-5}), "eligible: the share 1e-05 is below"),
    (declared(shadow={"arm": "newer"}), "shadow.arm: there is no arm 'newer'; the arms are old, new"),
    (declared(arms=arms(a=1, b=0), shadow={"arm": "a"}), "shadow.arm: all requests go to 'a' itself"),
    (declared(shadow={"arm": "new", "share": 0}), "shadow.share"),
    (declared(shadow={"arm": "new", "most": 0}), "shadow.most"),
    (declared(shadow={"arm": "new", "at_most": 1}), "unknown key"),
    (declared(canary={"arm": "none"}), r"canary\.arm: there is no arm 'none'; the arms are old, new"),
    (declared(canary={"arm": "old"}), r"canary\.arm: 'old' is the control"),
    (declared(canary={"arm": "new"}, metrics=[{"name": "latency"}]), "canary: no metric has a guardrail"),
    (
        declared(canary={"arm": "new", "steps": [0.1, 0.5, 0.5]}),
        r"canary\.steps must rise, and 0\.5 follows 0\.5",
    ),
    (declared(canary={"arm": "new", "steps": [0.00005, 0.5]}), r"canary\.steps: 5e-05 is below 0\.0001"),
    (declared(canary={"arm": "new", "steps": [0.5, 1]}), r"canary\.steps\.1: .*less than 1"),
    (declared(canary={"arm": "new", "steps": []}), r"canary\.steps: .*at least 1"),
    (declared(canary={"arm": "new", "step": [0.5]}), r"unknown key 'canary\.step'; did you mean 'steps'"),
    ([1], "is a mapping with the keys experiments, name"),
    ("a: [", "not valid YAML"),
]


@pytest.mark.parametrize(("content", "sentence"), WRONG)
def test_what_is_wrong_is_told_in_one_sentence(write, content, sentence):
    with pytest.raises(InputError, match=sentence) as refused:
        read_experiments(write(content))
    assert "experiments.yaml" in str(refused.value) and "\n" not in str(refused.value)


def test_arms_need_models_that_are_served():
    named = experiment(arms=[{"name": "one", "model": "sorting", "share": 1}, {"name": "two", "share": 0}])
    check(named, ["sorting"], 3)
    with pytest.raises(InputError, match=r"'trial': arm 'one': .* 'sorting' here; .* dynamic, static, other"):
        check(named, ["other"], 3)


def test_arms_need_the_generation_that_serves():
    pinned = experiment(arms=[{**ARMS[0], "generation": 2}, ARMS[1]])
    check(pinned, [], 2)
    check(pinned, [])
    with pytest.raises(InputError, match=r"arm 'old' asks for generation 2, and generation 3 serves"):
        check(pinned, [], 3)


def test_what_answers_for_an_arm():
    policy = Policy(top_k=2)
    assert target(Arm(name="a", policy=policy, share=1)) == Target("dynamic", policy=policy, arm="a")
    assert target(Arm(name="a", model="static", share=1)) == Target("static", arm="a")
    assert target(Arm(name="a", model="t0", share=1)) == Target("task", task="t0", arm="a")
    assert target(Arm(name="a", model="t0", share=1)).label == "a"


def test_plain_data_of_another_shape_is_refused_without_a_file():
    with pytest.raises(InputError, match=r"^metrics: "):
        parsed({"name": "x", "arms": ARMS, "metrics": []})
    assert parsed({"name": "x", "arms": ARMS, "metrics": METRICS}).baseline == "old"
