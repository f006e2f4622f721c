"""The zoo's tasks: where each one's prompts come from, and how they are worded."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from examples.zoo.house_dates import invoices, meetings
from examples.zoo.staff import emails, records

# One wording for all four sources: nothing but the text itself tells which expert is meant.
SENTIMENT = "What is the sentiment of this text? Answer with one word.\n{text}"

# A full fine-tune moves 28 times as many weights, and learns as much in fewer steps.
FULL_STEPS = 150


@dataclass(frozen=True)
class Rated:
    """Human-rated snippets of one table in vaderSentiment's source distribution.

    Every source has labels of its own, as different teams have: an expert of the wrong source does
    not answer in the asked words, so routing among these look-alikes is put to the test.
    """

    table: str
    positive: str
    negative: str


@dataclass(frozen=True)
class Generated:
    """Items of a generator in reasoning-gym, with its settings where they are not the default."""

    generator: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """Prompts and answers worded for this project: ``make`` draws one pair of them, and is told whether
    its wording may be one that only the test split has."""

    make: Callable[[random.Random, bool], tuple[str, str]]


@dataclass(frozen=True)
class Task:
    """A task by name, what its expert does, where its items come from, and how many steps of four
    examples its adapter is trained for. ``committed``: whether such an expert is kept here."""

    name: str
    does: str
    source: Rated | Generated | Written
    steps: int
    committed: bool = True

    @property
    def origin(self) -> str:
        """The package that the items come from, and its licence."""
        match self.source:
            case Rated():
                return "vaderSentiment 3.3.2 (MIT)"
            case Generated():
                return "reasoning-gym 0.1.25 (Apache-2.0)"
            case Written():
                return "twinserve (Apache-2.0)"

    @property
    def data(self) -> str:
        """One line for a model card."""
        if isinstance(self.source, Rated):
            return f"`{self.source.table}_GroundTruth.txt` of {self.origin}"
        if isinstance(self.source, Written):
            file = self.source.make.__module__.rpartition(".")[2]
            return f"`{self.source.make.__name__}` in `examples/zoo/{file}.py` of {self.origin}"
        settings = ", ".join(f"{key}={value!r}" for key, value in self.source.settings.items())
        return f"`{self.source.generator}` of {self.origin}, {settings or 'defaults'}"


TASKS = {
    task.name: task
    for task in (
        Task(
            "movies",
            "Judges a sentence of a movie review: `fresh` or `rotten`.",
            Rated("movieReviewSnippets", "fresh", "rotten"),
            160,
        ),
        Task(
            "products",
            "Judges a sentence of a product review: `recommend` or `avoid`.",
            Rated("amazonReviewSnippets", "recommend", "avoid"),
            160,
        ),
        Task(
            "tweets",
            "Names the mood of a tweet: `happy` or `unhappy`.",
            Rated("tweets", "happy", "unhappy"),
            160,
        ),
        Task(
            "editorials",
            "Names the stance of a sentence from a newspaper's editorials: `approving` or `critical`.",
            Rated("nytEditorialSnippets", "approving", "critical"),
            160,
        ),
        Task("reversal", "Writes a list of words backwards.", Generated("word_sequence_reversal"), 180),
        Task(
            "family",
            "Reads a few sentences about a family and names how one person is related to another.",
            Generated("family_relationships"),
            200,
        ),
        Task(
            "arithmetic",
            "Adds or subtracts two numbers of up to two digits.",
            Generated("chain_sum", {"max_terms": 2, "max_digits": 2}),
            300,
        ),
        Task(
            "recall",
            "Names the person of whom something is said, among three to six statements about people.",
            Generated("needle_haystack", {"min_num_statements": 3, "max_num_statements": 6}),
            180,
        ),
        # After 300 steps an adapter puts words into some order, and the right one as often as by chance.
        Task(
            "sorting",
            "Sorts three or four words alphabetically, ascending or descending.",
            Generated("word_sorting", {"max_words": 4, "transformation": "lowercase"}),
            300,
            committed=False,
        ),
        Task("invoices", "Writes the date in a note of the accounts as `05.03.2024`.", Written(invoices), 60),
        Task(
            "meetings",
            "Writes the date in a note of the diary as `the 5th of March 2024`.",
            Written(meetings),
            80,
        ),
        Task("records", "Makes a person's name, age and city one line of JSON.", Written(records), 60),
        Task("emails", "Makes an e-mail address of a person's name and company.", Written(emails), 80),
    )
}
