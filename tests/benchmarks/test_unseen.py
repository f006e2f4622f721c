"""The benchmark of unseen prompts: what is counted."""

from __future__ import annotations

from benchmarks.proof.tables import unseen as table
from benchmarks.proof.unseen import SHARED_FALLBACK, figures
from examples.zoo.unseen import Question
from serve.answers import Kept

DATA = {
    "capitals": [Question("France?", ("Paris",)), Question("Italy?", ("Rome",))],
    "choices": [Question("Ice?", ("cold",), ("hot",)), Question("Fire?", ("hot",), ("cold",))],
}
NOBODY = ({"base": 1.0},) * 4
ROUTED = ({"base": 1.0}, {"movies": 1.0}, {"base": 1.0}, {"movies": 0.7, "x": 0.3})


def kept(texts, mixtures=({},) * 4):
    return [Kept(text, True, mixture) for text, mixture in zip(texts, mixtures, strict=True)]


def first_words(text, cut):
    return " ".join(text.split()[:cut])


def answered(routes):
    said = ["It is Paris.", "It is a city I know, and its name in English is Rome", "cold", "cold"]
    return {
        "base": kept(said),
        "static": kept(["Paris", "no", "no", "hot"]),
        "dynamic": kept(["It is Paris.", "no", "cold", "hot"], routes),
        SHARED_FALLBACK: kept(["Paris", "no", "no", "hot"]),
    }


def test_figures_tell_arms_tasks_and_routes_apart():
    found = figures(DATA, answered(ROUTED), first_words)
    assert found["prompts"] == 4 and found["fell back, %"] == 50
    assert found["misrouted to"] == {"movies": 2, "x": 1}
    assert found["tasks"]["capitals"] == {
        "prompts": 2,
        "base": 100,
        "static": 50,
        "dynamic": 50,
        SHARED_FALLBACK: 50,
    }
    assert found["all"] == {"base": 75, "static": 50, "dynamic": 75, SHARED_FALLBACK: 50}
    # Only the base's answer to Fire would be right for another question of the task, Ice.
    assert found["by chance, %"]["base"] == 25 and found["by chance, %"]["static"] == 0
    difference, low, high = found["minus base"]["static"]
    assert difference == -25 and low <= -25 <= high
    # Rome is its thirteenth word.
    assert found["cut at"]["8"]["base"] == 50 and found["cut at"]["16"]["base"] == 75


def test_prompts_that_all_fell_back_were_routed_to_nobody():
    found = figures(DATA, answered(NOBODY), first_words)
    assert found["fell back, %"] == 100 and found["misrouted to"] == {}


def test_the_table_has_every_arm_and_its_distance_from_the_base():
    lines = table(figures(DATA, answered(ROUTED), first_words)).splitlines()
    assert lines[0] == f"| right, % | prompts | base | static | dynamic | {SHARED_FALLBACK} |"
    assert lines[2] == "| capitals | 2 | 100.0 | 50.0 | 50.0 | 50.0 |"
    assert lines[4].startswith("| **all** | 4 | **75.0**") and lines[5].count("[") == 3
