"""Evaluation: data files, scoring rules and the paired interval."""

from __future__ import annotations

import numpy as np
import pytest

from compress.errors import InputError
from serve.evaluate import Scores, read_data
from serve.intervals import paired_interval
from serve.job import Answer
from serve.request import Routing, Target


def write(folder, name, *lines):
    (folder / name).write_text("\n".join(lines) + "\n")


def test_data_with_prompts_and_messages(tmp_path):
    write(tmp_path, "a.jsonl", '{"prompt": "1+1", "answer": "2"}', "", '{"prompt": "x", "answer": "y"}')
    write(tmp_path, "b.jsonl", '{"messages": [{"role": "user", "content": "hi"}], "answer": "ho"}')
    data = read_data(tmp_path, ["a", "b"], limit=1)
    assert [item.messages for item in data["a"]] == [[{"role": "user", "content": "1+1"}]]
    assert data["b"][0].answer == "ho"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{broken", r"a\.jsonl:3: not valid JSON"),
        ('{"prompt": "x"}', r'a\.jsonl:3: "answer" must be'),
        ('["x"]', r"a\.jsonl:3: not a JSON object"),
        ('{"prompt": "x", "answer": 3}', r'a\.jsonl:3: "answer" must be'),
        ('{"prompt": "x", "answer": " "}', r'a\.jsonl:3: "answer" must be'),
        ('{"prompt": 5, "answer": "y"}', r'a\.jsonl:3: "prompt" must be a string'),
        ('{"messages": "hello", "answer": "y"}', r'a\.jsonl:3: "messages" must be a list'),
        ('{"messages": [5], "answer": "y"}', r"a\.jsonl:3: messages\[0\] must be"),
        ('{"prompt": " ", "answer": "y"}', r'a\.jsonl:3: "prompt" has no text'),
    ],
)
def test_bad_lines_are_named(tmp_path, line, sentence):
    write(tmp_path, "a.jsonl", '{"prompt": "x", "answer": "y"}', "", line)
    with pytest.raises(InputError, match=sentence):
        read_data(tmp_path, ["a"])


def test_tasks_without_prompts(tmp_path):
    with pytest.raises(InputError, match=r"a\.jsonl: no such file"):
        read_data(tmp_path, ["a"])
    write(tmp_path, "a.jsonl", "", " ")
    with pytest.raises(InputError, match=r"a\.jsonl: holds no prompts"):
        read_data(tmp_path, ["a"])


def scores(**hits):
    return Scores({task: np.array(values, dtype=float) for task, values in hits.items()})


def test_average_weighs_tasks_alike():
    assert scores(a=[1, 1, 1, 1], b=[0]).average == 0.5


def test_interval_of_equal_arms_is_zero_and_of_a_clear_gain_excludes_it():
    a = scores(a=[1, 0] * 50, b=[1, 1, 0, 0] * 20)
    same = paired_interval(a, a)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    gain = paired_interval(scores(a=[1] * 90 + [0] * 10), scores(a=[0] * 60 + [1] * 40))
    assert gain.value == pytest.approx(50) and 0 < gain.low < 50 < gain.high


def test_interval_agrees_with_the_normal_approximation():
    generator = np.random.default_rng(1)
    a, b = generator.integers(0, 2, 400), generator.integers(0, 2, 400)
    interval = paired_interval(scores(a=a), scores(a=b))
    error = 100 * (a - b).std(ddof=1) / np.sqrt(400)
    assert interval.low == pytest.approx(interval.value - 1.96 * error, abs=0.5)
    assert interval.high == pytest.approx(interval.value + 1.96 * error, abs=0.5)


class Parrot:
    """An engine surface whose answers are known."""

    def __init__(self, answers):
        from tests import tiny

        self.tokenizer, self.given, self.asked = tiny.tokenizer(), answers, []

    def answers(self, requests):
        self.asked = requests
        return iter(self.given)


def answer(text, finish="stop", **mixture):
    return Answer(text, (5,), Routing(mixture, "router", 0.9, "dynamic", 1), finish)


def test_exact_match_needs_the_whole_answer_and_its_end(tmp_path):
    from serve.evaluate import score

    lines = ['{"prompt": "x", "answer": "yes"}'] * 5
    write(tmp_path, "a.jsonl", *lines)
    parrot = Parrot(
        [
            answer("yes", a=1.0),
            answer(" yes\n", a=1.0),
            answer("yes", "length", a=1.0),
            answer("yes!", b=1.0),
            answer("Yes"),
        ]
    )
    result = score(parrot, read_data(tmp_path, ["a"]), lambda task: Target("dynamic"))
    assert result.hits["a"].tolist() == [1, 1, 0, 0, 0]
    assert result.routed_right == 3 / 5 and result.null_share == 1 / 5
    assert parrot.asked[0].params.max_tokens == len("yes") + 5
    assert parrot.asked[0].turns == ("x",)


def test_a_conversation_that_the_template_refuses_is_no_traceback(tmp_path):
    from serve.evaluate import score

    write(tmp_path, "a.jsonl", '{"prompt": "x", "answer": "yes"}')
    parrot = Parrot([])
    parrot.tokenizer.chat_template = "{{ raise_exception('users only') }}"
    with pytest.raises(InputError, match=r"refuses this conversation \(users only\)"):
        score(parrot, read_data(tmp_path, ["a"]), lambda task: Target("dynamic"))
