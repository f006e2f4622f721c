"""Writes data/unseen: short questions of tasks that no expert was trained for.

    npm pack countries-list@3.4.1
    python -m examples.zoo.make_unseen countries-list-3.4.1.tgz

The other facts, and all wordings, are written for this project (`unseen_texts.py`).
"""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from compress.errors import InputError
from examples.zoo.console import tidy_terminal
from examples.zoo.leaks import require_disjoint
from examples.zoo.make_data import DATA, write_lines
from examples.zoo.make_refusals import other_prompts
from examples.zoo.unseen import Question, names, parse_question
from examples.zoo.unseen_texts import (
    ARTICLE,
    COUNTRIES,
    EITHER_OR,
    GENERAL,
    OPPOSITES,
    PEOPLE,
    TWO_CONTINENTS,
    WORDINGS,
)

NAME = "unseen"
# Of one task, so that no task is most of the average over prompts.
MOST = 80
CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
# What else a right answer may be called.
ALSO = {
    "New Delhi": ("Delhi",),
    "Kyiv": ("Kiev",),
    "Sana'a": ("Sanaa",),
    "Bern": ("Berne",),
    "Washington D.C.": ("Washington",),
    "United States": ("USA", "America"),
    "United Kingdom": ("UK", "England", "Great Britain"),
    "Chinese": ("Mandarin",),
    "Persian": ("Farsi",),
    "Laotian": ("Lao",),
    "Cambodian": ("Khmer",),
    "Oceania": ("Australia",),
    "Soberano": ("Bolívar",),
    "Gold": ("ZiG", "Dollar"),
    "Krona": ("Kronor",),
    "Ruble": ("Rouble",),
}
Fact = tuple[str, Sequence[str], Sequence[str]]


def read_member(archive: Path, name: str) -> Any:
    """The JSON file ``package/<name>`` of an npm package. Raises InputError when it is not in it."""
    with tarfile.open(archive) as tar:
        try:
            file = tar.extractfile(f"package/{name}")
        except KeyError:
            file = None
        if file is None:
            raise InputError(f"{archive}: holds no {name}; is it the npm package countries-list 3.4.1?")
        return json.load(file)


def also(answer: str) -> tuple[str, ...]:
    return (answer, *ALSO.get(answer, ()))


def country_facts(archive: Path) -> dict[str, list[Fact]]:
    """Five kinds of facts about the countries listed here; a capital is asked for, or what it is one of."""
    listed_countries = COUNTRIES.split(", ")
    languages = read_member(archive, "languages.min.json")
    currencies = read_member(archive, "currencies.min.json")
    found = {country["name"]: country for country in read_member(archive, "countries.min.json").values()}
    if missing := [name for name in listed_countries if name not in found]:
        raise InputError(f"{archive}: has no country {missing[0]!r}; is it countries-list 3.4.1?")
    kinds = ("capitals", "countries", "continents", "languages", "currencies")
    facts: dict[str, list[Fact]] = {kind: [] for kind in kinds}
    for number, name in enumerate(listed_countries):
        country = found[name]
        said = f"the {name}" if name in ARTICLE else name
        if number % 3:
            facts["capitals"].append((said, also(country["capital"]), ()))
        else:
            facts["countries"].append((country["capital"], also(name), ()))
        if name not in TWO_CONTINENTS:
            here = CONTINENTS[country["continent"]]
            others = [other for other in CONTINENTS.values() if other != here]
            facts["continents"].append((said, also(here), others))
        if len(country["languages"]) == 1:
            language = languages[country["languages"][0]]["name"]
            facts["languages"].append((said, also(language), ()))
        if len(country["currency"]) == 1:
            # "Japanese Yen": whose it is, the prompt says.
            unit = currencies[country["currency"][0]]["name"].split()[-1]
            facts["currencies"].append((said, also(unit), ()))
    return facts


def listed(text: str) -> list[Fact]:
    """``WORD ANSWER|ANSWER, …``, a word alone or an answer of several."""
    pairs = (pair.split(" ", 1) for pair in text.split(", "))
    return [(word, answers.split("|"), ()) for word, answers in pairs]


def worded(kind: str, facts: Iterable[Fact]) -> list[Question]:
    """Every fact in one wording of its kind, round and round; facts whose answer the prompt would name are
    left out."""
    found = []
    for number, (subject, answers, wrong) in enumerate(facts):
        prompt = WORDINGS[kind][number % len(WORDINGS[kind])].format(subject)
        prompt = prompt[0].upper() + prompt[1:]
        if not names(prompt, answers):
            found.append(Question(prompt, tuple(answers), tuple(wrong)))
    return found


def either_or() -> list[Question]:
    found = []
    for line in EITHER_OR.split("; "):
        prompt, options = line.split("=")
        right, wrong = (tuple(part.split("|")) for part in options.split("/"))
        found.append(Question(prompt, right, wrong))
    return found


def asked(text: str) -> list[Question]:
    """``QUESTION=ANSWER|ANSWER; …``"""
    pairs = (pair.split("=") for pair in text.split("; "))
    return [Question(prompt, tuple(answers.split("|"))) for prompt, answers in pairs]


def questions(countries: Path) -> dict[str, list[Question]]:
    """task -> all its questions, in a fixed order."""
    facts = country_facts(countries) | {"opposites": listed(OPPOSITES)}
    tasks = {kind: worded(kind, found) for kind, found in facts.items()}
    tasks["people"] = asked(PEOPLE)
    tasks["general"] = asked(GENERAL)
    tasks["either_or"] = either_or()
    return tasks


def draw(found: Sequence[Question]) -> list[Question]:
    """``MOST`` of them at most, mixed in a fixed order."""
    return random.Random(0).sample(found, min(MOST, len(found)))


def make_unseen(countries: Path, folder: Path, console: Console) -> None:
    """Word every task, prove that its prompts stand nowhere else, write ``folder``/<task>.jsonl."""
    tasks = {task: draw(found) for task, found in questions(countries).items()}
    own = {task: [q.prompt for q in found] for task, found in tasks.items()}
    require_disjoint(own | other_prompts(DATA, NAME))
    table = Table("task", "prompts", "first prompt", "answers")
    for task, found in tasks.items():
        records = [asdict(question) for question in found]
        for record in records:
            parse_question(json.loads(json.dumps(record)))
        write_lines(folder / f"{task}.jsonl", records)
        table.add_row(task, str(len(found)), found[0].prompt, "|".join(found[0].answers))
    table.add_row("all", str(sum(map(len, tasks.values()))))
    console.print(table)


def main(
    countries: Annotated[Path, typer.Argument(help="npm package countries-list, MIT.")],
    out: Annotated[Path, typer.Option(help="where to write a file a task")] = DATA / NAME,
) -> None:
    """Regenerate examples/zoo/data/unseen."""
    with tidy_terminal():
        make_unseen(countries, out, Console())


if __name__ == "__main__":
    typer.run(main)
