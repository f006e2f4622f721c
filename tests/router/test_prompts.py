"""Labelled prompts: what is read, what is refused, and which of them count."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.errors import InputError
from router import Prompt, read_prompts
from router.prompts import distinct
from tests.router.prompts import TASKS, prompts


def test_read_prompts(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    lines = [
        '{"task": "a", "prompt": " one "}',
        "",
        '{"task": "b", "messages": [{"role": "user", "content": "two"}], "source": "kept apart"}\r',
        '{"task": "a", "prompt": "line\u2028separator"}',
        '{"task": "a", "messages": [{"role": "user", "content": "first "}, {"role": "user", "content": ""},'
        ' {"role": "assistant", "content": "?"}, {"role": "user", "content": "last"}]}',
    ]
    file.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode() + b"\n \n")
    assert read_prompts(file, ["a"]) == [
        Prompt("a", "one"),
        Prompt("b", "two"),
        Prompt("a", "line\u2028separator"),
        Prompt("a", "last", ("first",)),
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("not json", "not valid JSON"),
        ('{"task": "a", "prompt": "x"', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "not a JSON object"),
        ('{"prompt": "x"}', '"task" must be'),
        ('{"task": 3, "prompt": "x"}', '"task" must be'),
        ('{"task": "", "prompt": "x"}', '"task" must be'),
        ('{"task": "a"}', 'either "prompt" or "messages"'),
        ('{"task": "a", "prompt": "x", "messages": []}', 'either "prompt" or "messages"'),
        ('{"task": "a", "prompt": 3}', '"prompt" must be a string'),
        ('{"task": "a", "prompt": null}', '"prompt" must be a string'),
        ('{"task": "a", "messages": "x"}', '"messages" must be a list'),
        ('{"task": "a", "messages": ["x"]}', r"messages\[0\] must be"),
        ('{"task": "a", "messages": []}', '"messages" has no text'),
        ('{"task": "a", "prompt": "  "}', '"prompt" has no text'),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"task": "a", "prompt": "fine"}\n\n' + line + "\n")
    with pytest.raises(InputError, match=rf"prompts\.jsonl:3: .*{sentence}"):
        read_prompts(file, ["a"])


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(tmp_path / "missing.jsonl", ["a"])
    (tmp_path / "latin.jsonl").write_bytes(b'{"task": "a", "prompt": "caf\xe9"}')
    with pytest.raises(InputError, match="UTF-8"):
        read_prompts(tmp_path / "latin.jsonl", ["a"])
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no prompts"):
        read_prompts(tmp_path / "empty.jsonl", ["a"])


def test_a_folder_holds_a_file_a_task_and_only_the_asked_ones_are_read(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"prompt": "two"}\n')
    (tmp_path / "a.jsonl").write_text('{"prompt": "one"}\n{"task": "a", "prompt": "more"}\n')
    (tmp_path / "c.jsonl").write_text("not read")
    assert read_prompts(tmp_path, ["b", "a"]) == [Prompt("b", "two"), Prompt("a", "one"), Prompt("a", "more")]
    with pytest.raises(InputError, match=r"d\.jsonl"):
        read_prompts(tmp_path, ["a", "d"])
    (tmp_path / "d.jsonl").write_text('{"prompt": "one"}\n{"task": "a", "prompt": "other"}\n')
    with pytest.raises(InputError, match=r"d\.jsonl:2: \"task\" is 'a' in the file of 'd'"):
        read_prompts(tmp_path, ["d"])


def test_a_file_of_a_task_with_an_odd_name(tmp_path: Path) -> None:
    (tmp_path / "ü 1.jsonl").write_text('{"prompt": "one"}\n')
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.jsonl").write_text('{"task": "a/b", "prompt": "two"}\n')
    assert read_prompts(tmp_path, ["ü 1", "a/b"]) == [Prompt("ü 1", "one"), Prompt("a/b", "two")]


def test_turns_end_with_the_last() -> None:
    assert Prompt("a", "last", ("one", "two")).turns == ("one", "two", "last")
    assert Prompt("a", "only").turns == ("only",)


@pytest.mark.parametrize(
    "again",
    [
        Prompt("counting", "12 AB cd"),
        Prompt("counting", "12 ab CD"),
        Prompt("counting", "\n12   ab\tcd "),
        Prompt("counting", "12\u00a0AB cd"),
    ],
)
def test_letter_case_and_white_space_make_no_other_prompt(again: Prompt) -> None:
    labelled = [*prompts(TASKS[:1], 10), Prompt("counting", "12 AB cd")]
    kept, dropped = distinct([*labelled, again], TASKS[:1])
    assert kept == labelled and dropped == {"duplicates": 1, "conflicts": 0}


@pytest.mark.parametrize(
    "other",
    [
        Prompt("counting", "12AB cd"),
        Prompt("counting", "12 AB cd!"),
        Prompt("counting", "12 AB cd", ("before",)),
    ],
)
def test_anything_else_does(other: Prompt) -> None:
    labelled = [*prompts(TASKS[:1], 10), Prompt("counting", "12 AB cd"), other]
    kept, dropped = distinct(labelled, TASKS[:1])
    assert kept == labelled and dropped == {"duplicates": 0, "conflicts": 0}


def test_a_prompt_of_two_tasks_counts_for_neither() -> None:
    labelled = prompts(TASKS[:2], 12)
    contested = [Prompt("shouting", labelled[0].text), Prompt("counting", labelled[0].text + " ")]
    kept, dropped = distinct([*labelled, *contested], TASKS[:2])
    assert kept == labelled[1:] and dropped == {"duplicates": 2, "conflicts": 1}


def test_too_few_and_unknown_tasks_are_refused() -> None:
    labelled = prompts(TASKS, 10)
    with pytest.raises(InputError, match="names the task 'talking'; known: counting, shouting"):
        distinct(labelled, TASKS[:2])
    with pytest.raises(InputError, match=r"task 'poetry' has 0 distinct prompts of its own.*at least 10"):
        distinct(labelled, [*TASKS, "poetry"])
    with pytest.raises(InputError, match="task 'talking' has 9 distinct prompts"):
        distinct(labelled[:-1], TASKS)
    with pytest.raises(InputError, match="task 'shouting' has 2 distinct prompts"):
        distinct(labelled[:12], TASKS[:2])
    with pytest.raises(InputError, match="task 'counting' has 1 distinct prompts"):
        distinct([Prompt("counting", "1")] * 50, ["counting"])
