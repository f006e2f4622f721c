"""The tasks written for this project: answers are right, neighbours share what they should, half of the test
is worded as nothing else is."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.zoo import house_dates, staff
from examples.zoo.make_data import COUNTS, draw, write_data
from examples.zoo.names import CITIES, COMPANIES
from examples.zoo.tasks import TASKS, Written

DATA = Path(__file__).parents[2] / "examples" / "zoo" / "data"
WRITTEN = [name for name, task in TASKS.items() if isinstance(task.source, Written)]
ANSWERED = [split for split in COUNTS if split != "router"]
WORDINGS = {
    "invoices": (house_dates.ACCOUNTS, house_dates.UNSEEN_ACCOUNTS),
    "meetings": (house_dates.DIARY, house_dates.UNSEEN_DIARY),
    "records": (staff.RECORD, staff.UNSEEN_RECORD),
    "emails": (staff.ADDRESS, staff.UNSEEN_ADDRESS),
}


def lines(split: str, task: str) -> list[dict[str, str]]:
    text = (DATA / split / f"{task}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def answered(task: str) -> Iterator[tuple[str, str, str]]:
    """First line of the prompt, what follows it, and the answer, of all splits that have one."""
    for split in ANSWERED:
        for line in lines(split, task):
            question, _, text = line["prompt"].partition("\n")
            yield question, text, line["answer"]


def date_in(text: str) -> datetime.date:
    """The one date of a note, found without the lists it was made from."""
    forms = {
        r"\d{4}-\d\d-\d\d": "%Y-%m-%d",
        r"[A-Z][a-z]+ \d+, \d{4}": "%B %d, %Y",
        r"\d+ [A-Z][a-z]+ \d{4}": "%d %B %Y",
    }
    found = [(form, match) for pattern, form in forms.items() for match in re.findall(pattern, text)]
    assert len(found) == 1, text
    form, match = found[0]
    return datetime.datetime.strptime(match, form).date()


def words_of(names: str, text: str) -> list[str]:
    return [name for name in names.split() if re.search(rf"\b{name}\b", text)]


def is_worded(prompt: str, wordings: tuple[str, ...]) -> bool:
    """Whether one line of the prompt is one of the wordings with its gaps filled."""
    patterns = (re.sub(r"\\\{\w+\\\}", ".+", re.escape(wording)) for wording in wordings)
    matches = (re.fullmatch(pattern, line) for pattern in patterns for line in prompt.splitlines())
    return any(matches)


def test_accounts_write_dates_in_digits():
    for _, text, answer in answered("invoices"):
        assert answer == date_in(text).strftime("%d.%m.%Y")


def test_the_diary_writes_dates_in_words():
    for _, text, answer in answered("meetings"):
        the, day, of, month, year = answer.split()
        assert (the, of) == ("the", "of")
        assert day in {"1st", "2nd", "3rd", "21st", "22nd", "23rd", "31st"} or day.endswith("th")
        named = f"{re.sub('(?<=[0-9])[a-z]+', '', day)} {month} {year}"
        assert datetime.datetime.strptime(named, "%d %B %Y").date() == date_in(text)


@pytest.mark.parametrize(
    ("number", "words"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (13, "13th")],
)
def test_ordinals_end_as_they_are_said(number, words):
    assert house_dates.ordinal(number) == words
    if number < 10:
        assert house_dates.ordinal(number + 20) == f"2{words}"


def test_records_hold_what_is_said_of_the_person():
    for _, text, answer in answered("records"):
        record = json.loads(answer)
        assert list(record) == ["name", "age", "city"] and "\n" not in answer
        assert record["name"] in text and len(record["name"].split()) == 2
        assert re.findall(r"\d+", text) == [str(record["age"])]
        assert words_of(CITIES, text) == [record["city"]]


def test_addresses_are_of_the_persons_name_and_company():
    for _, text, answer in answered("emails"):
        initial, last, company = re.fullmatch(r"([a-z])\.([a-z]+)@([a-z]+)\.example", answer).groups()
        assert re.search(rf"\b{initial.upper()}[a-z]+ {last.capitalize()}\b", text), text
        assert words_of(COMPANIES, text) == [company.capitalize()]


def test_both_house_styles_are_asked_for_in_the_same_words():
    asked = [{question for question, _, _ in answered(task)} for task in ("invoices", "meetings")]
    assert asked[0] == asked[1] and len(asked[0]) == 1
    styles = [{answer for _, _, answer in answered(task)} for task in ("invoices", "meetings")]
    assert not styles[0] & styles[1]


def test_records_and_addresses_are_asked_of_the_same_sentences():
    tasks = ("records", "emails")
    for task in tasks:
        assert all(is_worded(text, staff.SENTENCES) for _, text, _ in answered(task))
    asked = [{question for question, _, _ in answered(task)} for task in tasks]
    assert not asked[0] & asked[1]


@pytest.mark.parametrize("task", WRITTEN)
def test_half_of_the_test_is_worded_as_no_other_split_is(task):
    known, unseen = WORDINGS[task]
    for split in COUNTS:
        found = [line["prompt"] for line in lines(split, task)]
        new = [is_worded(prompt, unseen) for prompt in found]
        assert all(is_worded(prompt, known) != other for prompt, other in zip(found, new, strict=True))
        assert sum(new) == (COUNTS[split] // 2 if split == "test" else 0)
        # All wordings are used, so that none is new by accident.
        used = [w for w in known if any(is_worded(prompt, (w,)) for prompt in found)]
        assert used == list(known)


@pytest.mark.parametrize("task", WRITTEN)
def test_written_tasks_come_out_as_committed(task, tmp_path):
    write_data({task: draw(task, b"", set())}, tmp_path)
    for split in COUNTS:
        name = f"{split}/{task}.jsonl"
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes()
