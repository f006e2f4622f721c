"""Experiments as people write them: what is read, and the sentence that says what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.errors import InputError
from router.policy import Policy
from serve.experiments.definitions import check, parsed, read_experiments, target
from serve.experiments.loaded import Loaded, answering, by_digest
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
    (
        declared(arms=[{**ARMS[0], "digest": "1" * 64, "generation": 1}, ARMS[1]]),
        "digest and generation both",
    ),
    (declared(arms=[{**ARMS[0], "digest": "bundles/zoo"}, ARMS[1]]), r"arms\.0\.digest"),
    (declared(eligible={"share": 1e-5}), "eligible: the share 1e-05 is below"),
    (declared(shadow={"arm": "newer"}), "shadow.arm: there is no arm 'newer'; the arms are old, new"),
    (declared(arms=arms(a=1, b=0), shadow={"arm": "a"}), "shadow.arm: all requests go to 'a' itself"),
    (declared(shadow={"arm": "new", "share": 0}), "shadow.share"),
    (
        declared(arms=[ARMS[0], ARMS[1] | {"digest": "a" * 64}], shadow={"arm": "new"}),
        "shadow: it is answered by the engine that serves",
    ),
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
    check(named, [Loaded(tasks=["sorting"])])
    with pytest.raises(InputError, match=r"'trial': arm 'one': .* 'sorting' here; .* dynamic, static, other"):
        check(named, [Loaded(tasks=["other"])])


ONE, TWO = Loaded(3, "1" * 64, ["sorting"], 200), Loaded(7, "2" * 64, ["other"], 200)
UNANSWERABLE = [
    ({"digest": "4" * 64}, [ONE, TWO], "arm 'old': its bundle, with the digest 4{16}…, is not loaded"),
    ({"digest": TWO.digest}, [ONE, replace(TWO, failed=True)], "2{16}…, failed, as generation 7; load it"),
    ({"digest": TWO.digest, "model": "sorting"}, [ONE, TWO], "'sorting' in generation 7; .*, other$"),
    ({"digest": TWO.digest, "model": "dynamic"}, [ONE, replace(TWO, routes=False)], "7 has no router"),
    ({"digest": TWO.digest}, [ONE, replace(TWO, context=100)],
     r"contexts of 100 tokens \(arm 'old'\) and 200 tokens \(arm 'new'\); set max_model_len to the least"),
    ({"generation": 7}, [ONE, TWO], "names generation 7 by its number; give its bundle's digest"),
]  # fmt: skip


@pytest.mark.parametrize(("arm", "loaded", "sentence"), UNANSWERABLE)
def test_every_arm_needs_its_own_generation(arm, loaded, sentence):
    with pytest.raises(InputError, match=sentence) as refused:
        check(experiment(arms=[{**ARMS[0], **arm}, ARMS[1]]), loaded)
    assert "\n" not in str(refused.value)


def test_an_arm_is_answered_by_its_bundle_whatever_its_number():
    arms = experiment(arms=[{**ARMS[0], "digest": TWO.digest}, ARMS[1]]).arms
    assert [answering(arm, [ONE, TWO]) for arm in arms] == [TWO, ONE]
    assert [answering(arm, [TWO, ONE]) for arm in arms] == [TWO, TWO]
    again = replace(TWO, generation=9)
    assert answering(arms[0], [ONE, replace(TWO, failed=True), again]) == again


def test_a_number_is_kept_as_the_digest_that_it_stands_for():
    numbered = experiment(arms=[{**ARMS[0], "generation": 7}, ARMS[1]])
    kept = by_digest(numbered, [ONE, TWO])
    assert kept == experiment(arms=[{**ARMS[0], "digest": TWO.digest}, ARMS[1]])
    assert by_digest(kept, [ONE]) == kept
    with pytest.raises(InputError, match="'old' asks for generation 7, and loaded are: 3; load"):
        by_digest(numbered, [ONE])


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
