"""The benchmark of unseen prompts: what is counted, and that kept answers are not asked again."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from benchmarks.proof import kept as kept_module
from benchmarks.proof.kept import Answers, Kept
from benchmarks.proof.unseen import figures
from examples.zoo.unseen import MAX_TOKENS, Question

DATA = {
    "capitals": [Question("France?", ("Paris",)), Question("Italy?", ("Rome",))],
    "choices": [Question("Ice?", ("cold",), ("hot",)), Question("Fire?", ("hot",), ("cold",))],
}
PROMPTS = [question.prompt for found in DATA.values() for question in found]


def kept(arm, texts, mixtures=({},) * 4):
    return [
        Kept("sha", arm, MAX_TOKENS, prompt, text, list(range(len(text.split()))), mixture)
        for prompt, text, mixture in zip(PROMPTS, texts, mixtures, strict=True)
    ]


def first_words(answer, cut):
    return " ".join(answer.text.split()[:cut])


def test_figures_tell_arms_tasks_and_routes_apart():
    answered = {
        "base": kept(
            "base", ["It is Paris.", "It is a city I know, and its name in English is Rome", "cold", "cold"]
        ),
        "static": kept("static", ["Paris", "no", "no", "hot"]),
        "dynamic": kept(
            "dynamic", ["no", "no", "no", "hot"], [{}, {"movies": 1.0}, {}, {"movies": 0.7, "x": 0.3}]
        ),
    }
    found = figures(DATA, answered, first_words)
    assert found["prompts"] == 4 and found["fell back, %"] == 50
    assert found["misrouted to"] == {"movies": 2}
    assert found["mean tokens"]["base"] == (3 + 13 + 1 + 1) / 4
    assert found["tasks"]["capitals"] == {
        "prompts": 2,
        "fell back, %": 50,
        "base": 100,
        "static": 50,
        "dynamic": 0,
        "fallback to base": 50,
    }
    # France and Ice fell back, and the base knows both; Italy and Fire went to an expert, which knows Fire.
    assert [found["all"][arm] for arm in ("base", "static", "dynamic", "fallback to base")] == [
        75,
        50,
        25,
        75,
    ]
    assert found["fell back"]["prompts"] == found["misrouted"]["prompts"] == 2
    assert (found["fell back"]["base"], found["fell back"]["dynamic"]) == (100, 0)
    assert (found["misrouted"]["base"], found["misrouted"]["dynamic"]) == (50, 50)
    # Only its answer to Fire would be right for another question of the task, Ice.
    assert found["by chance"]["base"] == 25 and found["by chance"]["static"] == 0
    difference, low, high = found["all"]["dynamic - base"]
    assert difference == -50 and low <= -50 <= high
    assert found["fell back"]["fallback to base - base"] == [0, 0, 0]
    # Rome is its thirteenth word.
    assert found["cut at"]["8"]["base"] == 50 and found["cut at"]["16"]["base"] == 75


def test_figures_of_prompts_that_all_fell_back_have_no_misrouted_part():
    answered = {arm: kept(arm, ["Paris", "Rome", "cold", "hot"]) for arm in ("base", "static", "dynamic")}
    found = figures(DATA, answered, first_words)
    assert "misrouted" not in found and found["misrouted to"] == {}
    assert found["all"]["dynamic"] == found["fell back"]["static"] == 100


@pytest.fixture
def engine(monkeypatch):
    """Counts how often it is opened and what it is asked; dies at the prompt "die"."""
    log = SimpleNamespace(opened=0, asked=[])

    def ask(_, model, arm, prompts, limit, progress):
        if "die" in prompts:
            raise KeyboardInterrupt
        log.asked += prompts
        return [Kept(model, arm, limit, prompt, prompt.upper(), [1]) for prompt in prompts]

    @contextmanager
    def opened():
        log.opened += 1
        yield None

    monkeypatch.setattr(kept_module, "ask", ask)
    monkeypatch.setattr(kept_module, "CHUNK", 2)
    log.open = opened
    return log


def of(path, engine, prompts, model="sha", arm="base", limit=24):
    return Answers(path).of(model, arm, prompts, limit, engine.open, lambda: None)


def test_a_killed_run_goes_on_and_a_finished_one_opens_no_engine(tmp_path, engine):
    path = tmp_path / "new" / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        of(path, engine, ["a", "b", "c", "die"])
    assert engine.asked == ["a", "b"]
    with path.open("a") as file:
        file.write('{"model": "sha", "arm"')  # cut short by the kill
    assert [k.text for k in of(path, engine, ["c", "b", "a"])] == ["C", "B", "A"]
    assert engine.asked == ["a", "b", "c"] and engine.opened == 2
    assert [k.text for k in of(path, engine, ["a", "b", "c"])] == ["A", "B", "C"]
    assert engine.opened == 2


@pytest.mark.parametrize("other", [{"model": "another"}, {"arm": "static"}, {"limit": 8}])
def test_answers_of_another_model_arm_or_limit_are_asked_anew(tmp_path, engine, other):
    of(tmp_path / "a.jsonl", engine, ["a"])
    of(tmp_path / "a.jsonl", engine, ["a"], **other)
    assert engine.asked == ["a", "a"]
