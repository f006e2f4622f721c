"""The unseen tasks: prompts for which no expert was trained, and when an answer to one is right."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import InputError
from router.jsonl import prompt_of, read_jsonl

ITEM_EXAMPLE = '{"prompt": "TEXT", "answers": ["TEXT"], "wrong": []}'
# "The capital of the Dominican Republic is Santo Domingo." has 12 tokens; an answer that has not come after
# twice as many is no answer to a short question.
MAX_TOKENS = 24


@dataclass(frozen=True)
class Question:
    """A prompt, the texts of which one must be named, and those of which none may be."""

    prompt: str
    answers: tuple[str, ...]
    wrong: tuple[str, ...] = ()


def parse_question(content: dict[str, Any]) -> Question:
    """One line of a data file. Raises InputError for any other, and for a question that cannot be answered
    right, or that is answered by saying it again."""
    prompt = prompt_of(content)
    if not isinstance(prompt, str):
        raise InputError('"messages" are not scored here: give "prompt"')
    answers, wrong = (_texts(content, key) for key in ("answers", "wrong"))
    if not answers:
        raise InputError('"answers" must hold at least one text')
    if both := {plain(text) for text in answers} & {plain(text) for text in wrong}:
        raise InputError(f"{sorted(both)} are right and wrong at once: leave them in one of the lists")
    if not wrong and names(prompt, answers):
        raise InputError(f"{prompt!r} names an answer itself, so repeating it would be right: word it anew")
    return Question(prompt, answers, wrong)


def _texts(content: dict[str, Any], key: str) -> tuple[str, ...]:
    texts = content.get(key, [])
    if not isinstance(texts, list) or not all(isinstance(t, str) and plain(t) for t in texts):
        raise InputError(f'"{key}" must be a list of texts with letters or digits in them')
    return tuple(texts)


def read_questions(folder: Path, limit: int | None = None) -> dict[str, list[Question]]:
    """task -> questions of ``folder/<task>.jsonl``, tasks in the order of names; at most ``limit`` a task.

    Raises InputError for a folder without such files and for a bad line (file:line).
    """
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise InputError(f"{folder}: holds no .jsonl file; python -m examples.zoo.make_unseen writes them")
    return {path.stem: read_jsonl(path, parse_question, ITEM_EXAMPLE)[:limit] for path in paths}


def is_right(question: Question, text: str) -> bool:
    """Whether ``text``, the first ``MAX_TOKENS`` tokens of an answer, names an acceptable answer as whole
    words and nothing of ``wrong``.

    Letter case, accents and punctuation do not count. Meant to favour neither terse models nor chatty ones:

    - How much is said around the answer does not count, so *Paris* and *The capital of France is Paris.* are
      both right, and a wrong word is wrong at any length.
    - No open question names its answer (`parse_question` refuses that), so a chatty model gains nothing
      by repeating it. A model that never ends gains nothing either: what follows the limit is not read.
    - Where the possible answers are few (continents, either/or), the others are ``wrong``: naming
      all of them is no answer, and one that names both options is not right even where it says which (*cold,
      not hot*). Those questions ask what a thing is, never which of two things is more so, because *A is
      bigger than B* names both.
    - Where they are many (capitals, people), ``wrong`` is empty, since a right answer may go on to mention
      others (*Canberra, not Sydney*). A model that lists guesses gains there, as many as fit into the limit.

    What it cannot see: a denial (*it is not Paris*), a synonym that nobody listed, and an answer that comes
    after the limit. In either/or questions a terse model that always names one option is right half of the
    time, where a chatty one that weighs both is never right.
    """
    return names(text, question.answers) and not names(text, question.wrong)


def names(text: str, phrases: Sequence[str]) -> bool:
    """Whether one of ``phrases`` stands in ``text`` as whole words."""
    return any(f" {plain(phrase)} " in f" {plain(text)} " for phrase in phrases)


def plain(text: str) -> str:
    """Lower-case words without accents, one space between them; all but letters and digits is space."""
    letters = unicodedata.normalize("NFKD", text)
    letters = "".join(c for c in letters if not unicodedata.combining(c)).casefold()
    return " ".join(re.findall(r"[^\W_]+", letters))
