"""``twinserve route``: lines of text and of JSON, and which line is wrong."""

from __future__ import annotations

import json

import pytest

from serve.commands import ask
from tests import tiny
from tests.bundles import write_recipe
from tests.commands import run
from tests.serve.packed import COSTS

WORDS = {"sums": "{} + {} =", "letters": "spell {} then {}"}
SCORES = {"probabilities", "confidence", "known", "mixture"}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A bundle of two experts with a router."""
    folder = tmp_path_factory.mktemp("workshop")
    base = tiny.save_base(folder / "base")
    for i, task in enumerate(WORDS):
        tiny.save_adapter(folder / task, base, i)
    prompts = [
        {"task": task, "prompt": words.format(i, i * 7 % 50)}
        for task, words in WORDS.items()
        for i in range(30)
    ]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    write_recipe(
        folder / "recipe.yaml",
        base="base",
        experts=[{"task": task, "checkpoint": task} for task in WORDS],
        router={"prompts": "prompts.jsonl", "features": "embedding", "classifiers": "logistic"},
    )
    run(folder, "build", "recipe.yaml", "-o", "bundle")
    return folder


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch):
    monkeypatch.setenv("TWINSERVE_COSTS", COSTS.model_dump_json())


def routed(workshop, *lines):
    stdin = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    return [json.loads(line) for line in run(workshop, "route", "bundle", stdin=stdin).stdout.splitlines()]


def scores(line):
    return {key: line[key] for key in SCORES}


def test_a_text_and_an_object_with_it_are_one_prompt(workshop):
    text, prompt, messages = routed(
        workshop,
        "3 + 4 =",
        {"prompt": "3 + 4 ="},
        {"messages": [{"role": "system", "content": "spell it"}, {"role": "user", "content": "3 + 4 ="}]},
    )
    assert scores(text) == scores(prompt) == scores(messages)
    assert text.keys() == {"prompt"} | SCORES and text["prompt"] == "3 + 4 ="
    assert text["mixture"] == {"sums": 1.0} and text["known"] is True
    assert text["confidence"] == max(text["probabilities"].values()) > 0.5
    assert list(text["probabilities"]) == list(WORDS)


def test_what_was_given_comes_back_with_the_scores(workshop):
    given = {
        "id": 7,
        "messages": [
            {"role": "user", "content": "spell 1 then 2"},
            {"role": "assistant", "content": "ä"},
            {"role": "user", "content": [{"type": "text", "text": "3 + 4 ="}]},
        ],
    }
    (line,) = routed(workshop, given)
    assert {key: line[key] for key in given} == given and line.keys() == given.keys() | SCORES
    last, alone = routed(workshop, "3 + 4 =", "spell 1 then 2")
    own = [one["probabilities"]["sums"] for one in (alone, line, last)]
    assert own[0] < own[1] < own[2], "earlier turns count, and less than the last"


@pytest.mark.parametrize("text", ["{x + 4 =", "{", '{"prompt": "3 + 4 ="', "{'prompt': 1}", "{3} + {4} = {}"])
def test_a_prompt_may_begin_with_a_brace(workshop, text):
    (line,) = routed(workshop, text)
    assert line["prompt"] == text and line.keys() == {"prompt"} | SCORES


@pytest.mark.parametrize("text", ['{"sum": 3}', "{}", '  {"task": "sums"}'])
def test_an_object_that_asks_nothing_is_a_prompt_like_any_other(workshop, text):
    (line,) = routed(workshop, text)
    assert line["prompt"] == text


@pytest.mark.parametrize("text", ["[1, 2]", '"3 + 4 ="', "3", "null"])
def test_json_that_is_no_object_is_text(workshop, text):
    (line,) = routed(workshop, text)
    assert line["prompt"] == text


def test_empty_lines_are_no_prompts(workshop):
    found = routed(workshop, "", "3 + 4 =", "   ", "\t", "spell 1 then 2", "")
    assert [line["prompt"] for line in found] == ["3 + 4 =", "spell 1 then 2"]
    assert routed(workshop) == []


def test_many_lines_are_answered_in_order(workshop, monkeypatch):
    lines = [words.format(i, i) for i in range(4) for words in WORDS.values()]
    whole = routed(workshop, *lines)
    monkeypatch.setattr(ask, "BATCH", 3)
    parts = routed(workshop, *lines)
    assert [line["prompt"] for line in parts] == lines
    for one, other in zip(parts, whole, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], rel=1e-4)


BAD = {
    '{"prompt": 3}': '"prompt" must be a string',
    '{"prompt": ""}': '"prompt" has no text to route',
    '{"prompt": "a", "messages": []}': 'give either "prompt" or "messages"',
    '{"messages": "3 + 4 ="}': '"messages" must be a list of messages',
    '{"messages": []}': '"messages" has no text to route',
    '{"messages": [{"role": "assistant", "content": "a"}]}': '"messages" has no text to route',
    '{"messages": [3]}': "messages[0] must be an object with a role and a content",
    '{"messages": [{"role": "user"}]}': "messages[0].content must be a string or a list of text parts",
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_line_is_named_before_a_model_is_loaded(workshop, bad):
    done = run(workshop, "route", "no-bundle-yet", stdin=f"3 + 4 =\n\n{bad}\nspell a\n", code=1)
    assert f"error: line 3: {BAD[bad]}" in " ".join(done.stderr.split())
    assert done.stdout == "" and "Traceback" not in done.stderr
