"""Answers on file: what is known is not asked again, and a cut-off run loses a line at most."""

from __future__ import annotations

import json

import pytest

from compress.errors import InputError
from serve.answers import AnswerFile, Book
from serve.evaluate import Item, score, score_each
from serve.job import Answer
from serve.request import Routing, Target
from tests import tiny

ITEMS = {task: [Item([{"role": "user", "content": f"{task} {n}"}], "yes") for n in range(3)] for task in "ab"}


class Counting:
    """An engine that says "yes" to its own task's expert, "no" to others, and counts what it is asked."""

    def __init__(self, routed="a", fails_after=None):
        self.tokenizer, self.asked, self.routed, self.fails_after = tiny.tokenizer(), 0, routed, fails_after

    def answers(self, requests):
        for request in requests:
            if self.asked == self.fails_after:
                raise InterruptedError
            self.asked += 1
            target = request.target
            mixture = {"task": {target.task: 1.0}, "static": {}, "dynamic": {self.routed: 1.0}}.get(
                target.kind, target.mixture
            )
            right = max(mixture, key=mixture.get, default="") == request.turns[0][0]
            yield Answer(
                "yes" if right else "no", (5,), Routing(mixture, "router", 0.9, "dynamic", 1), "stop"
            )


def dynamic(_):
    return Target("dynamic")


def test_equal_weights_are_asked_once():
    engine, book = Counting(), Book(AnswerFile(), "model", "router")
    counted = []
    routed = score(engine, ITEMS, dynamic, lambda: counted.append(1), book)
    assert routed.hits["a"].tolist() == [1, 1, 1] and routed.hits["b"].tolist() == [0, 0, 0]
    assert (routed.routed_right, engine.asked, len(counted)) == (0.5, 6, 6)
    named = score(engine, ITEMS, lambda task: Target("task", task=task), lambda: counted.append(1), book)
    assert named.average == 1 and engine.asked == 9 and len(counted) == 12
    blends = [Target("mixture", mixture={"a": 1.0, "b": 0.001})] * 6
    assert score_each(engine, ITEMS, blends, None, book).average == 0.5 and engine.asked == 9
    score_each(engine, ITEMS, [Target("mixture", mixture={})] * 6, None, book)
    score(engine, ITEMS, lambda _: Target("static"), None, book)
    assert engine.asked == 15


def test_another_model_another_router_or_another_reference_is_another_question():
    engine, file = Counting(), AnswerFile()
    score(engine, ITEMS, dynamic, None, Book(file, "model", "router"))
    score(engine, ITEMS, dynamic, None, Book(file, "model", "other router"))
    score(engine, ITEMS, dynamic, None, Book(file, "other model", "router"))
    assert engine.asked == 18
    other = {"a": [Item(ITEMS["a"][0].messages, "no")]}
    assert score(engine, other, dynamic, None, Book(file, "model", "router")).average == 0
    assert engine.asked == 19


def test_an_interrupted_evaluation_goes_on(tmp_path):
    path = tmp_path / "made" / "answers.jsonl"
    with pytest.raises(InterruptedError), AnswerFile.open(path) as file:
        score(Counting(fails_after=4), ITEMS, dynamic, None, Book(file, "model"))
    # As if the machine had died while the fourth line was written.
    path.write_bytes(path.read_bytes()[:-9])
    engine = Counting()
    with AnswerFile.open(path) as file:
        scores = score(engine, ITEMS, dynamic, None, Book(file, "model"))
    assert engine.asked == 3 and scores.average == 0.5
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 6 and {line["task"] for line in lines} == {"a", "b"}
    assert lines[0]["answer"] == "yes" and lines[0]["expected"] == "yes" and lines[0]["mixture"] == {"a": 1.0}


def test_line_separators_of_unicode_are_no_lines(tmp_path):
    class Odd(Counting):
        def answers(self, requests):
            for answer in super().answers(requests):
                yield Answer("one\u2028two\r\n\x85", *list(vars(answer).values())[1:])

    path = tmp_path / "answers.jsonl"
    for asked in (6, 0):
        engine = Odd()
        with AnswerFile.open(path) as file:
            score(engine, ITEMS, dynamic, None, Book(file, "model"))
        assert engine.asked == asked


@pytest.mark.parametrize("line", ["{", '{"prompt": "x"}', "[]", ""])
def test_a_file_of_something_else_is_left_alone(tmp_path, line):
    path = tmp_path / "other.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(InputError, match=r"other\.jsonl:1: not a line of answers"), AnswerFile.open(path):
        pass
    assert path.read_text() == f"{line}\n"


def test_two_evaluations_do_not_write_one_file(tmp_path):
    path = tmp_path / "answers.jsonl"
    with (
        AnswerFile.open(path),
        pytest.raises(InputError, match="another evaluation is writing it"),
        AnswerFile.open(path),
    ):
        pass
    with AnswerFile.open(path):
        pass
