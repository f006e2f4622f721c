"""The page about a router: every number of its report, and nothing that runs or is fetched."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from router.report import MARGIN, SIDE, page

TASKS = ["sums", "letters"]
REPORT: dict[str, Any] = {
    "counts": {"train": {"sums": 31, "letters": 42}, "test": {"sums": 6, "letters": 8}},
    "dropped": {"duplicates": 17, "conflicts": 19},
    "comparison": [
        {
            "features": "embedding",
            "classifier": "mlp",
            "log_loss": 0.12344,
            "accuracy": 0.912,
            "chosen": False,
        },
        {
            "features": "tfidf",
            "classifier": "logistic",
            "log_loss": 0.0567,
            "accuracy": 0.987,
            "chosen": True,
        },
    ],
    "reason": "tfidf features with logistic: the lowest log-loss",
    "accuracy": 0.9286,
    "ece": 0.0312,
    "nll": 0.2154,
    "false_rejection": 0.0143,
    "below_threshold": 0.0714,
    "tasks": {
        "sums": {"precision": 0.8571, "recall": 0.999, "false_rejection": 0.222},
        "letters": {"precision": None, "recall": 0.875, "false_rejection": 0.125},
    },
    "confusion": [[6, 0], [1, 7]],
    "reliability": [
        {"to": 0.6, "prompts": 5, "confidence": 0.55, "accuracy": 0.4},
        {"to": 1.0, "prompts": 9, "confidence": 0.96, "accuracy": 1.0},
    ],
    "abstention": [{"rejected": 0.0, "accuracy": 0.92}, {"rejected": 0.5, "accuracy": 1.0}],
}
DATALESS = {"reason": "projection features with dataless: no prompts were given", "dataless": True}
ADDED = {
    "task": "colours",
    "prompts": {"train": 57, "test": 13},
    "recall": 0.9231,
    "false_rejection": 0.0769,
    "taken": 0.0321,
}
END = {"static": {"sums": 0.111, "letters": 0.333, "average": 0.222}, "own": dict.fromkeys(TASKS, 0.777)}
END["own"]["average"] = 0.888


class Reader(HTMLParser):
    """Rows of all tables, other text, and elements with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows and self.rows[-1] and data.strip():
            self.rows[-1][-1] += data.strip()

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.rows.append([])

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(report: Any, tasks: list[str] = TASKS, **options: Any) -> Reader:
    reader = Reader()
    reader.feed(page(report, tasks, **options))
    reader.text = " ".join(reader.text.split())
    return reader


def test_every_number_of_the_report_is_there() -> None:
    found = read(REPORT)
    for fact in ("92.9 %right", "3.1 %calibration", "0.215log-loss", "1.4 %taken", "7.1 %left as unsure"):
        assert fact in found.text
    assert "On 14 prompts that nothing was fitted or chosen on; 73 trained it." in found.text
    assert "17 duplicates, 19 prompts given to several tasks" in found.text
    assert "Tfidf features with logistic: the lowest log-loss." in found.text
    for row in (
        ["embedding", "mlp", "0.1234", "91.2 %"],
        ["tfidf", "logistic", "0.0567", "98.7 %"],
        ["sums", "31", "6", "85.7 %", "99.9 %", "22.2 %"],
        ["letters", "42", "8", "–", "87.5 %", "12.5 %"],
        ["sums", "6", ""],
        ["letters", "1", "7"],
    ):
        assert row in found.rows
    chosen = [i for i, attributes in enumerate(found.of("tr")) if attributes.get("class") == "chosen"]
    assert len(chosen) == 1


def test_plots_show_confidence_and_what_abstaining_buys() -> None:
    found = read(REPORT)
    assert "5 prompts: confidence 0.55, right 0.40" in found.text
    assert "9 prompts: confidence 0.96, right 1.00" in found.text
    dots = [(float(c["cx"] or 0), float(c["cy"] or 0)) for c in found.of("circle")]
    bottom = MARGIN / 2 + SIDE
    assert dots[:2] == [
        (pytest.approx(MARGIN + share * SIDE, abs=0.1), pytest.approx(bottom - right * SIDE, abs=0.1))
        for share, right in ((0.55, 0.4), (0.96, 1.0))
    ]
    # The abstention curve begins just below its worst accuracy, 0.92, and ends at 1.
    low = 0.92 - 0.02
    assert dots[2:] == [
        (pytest.approx(MARGIN + share * SIDE, abs=0.1), pytest.approx(y, abs=0.1))
        for share, y in ((0.0, bottom - 0.02 / (1 - low) * SIDE), (0.5, bottom - SIDE))
    ]
    (line,) = found.of("polyline")
    assert line["points"] == " ".join(f"{x},{y}" for x, y in dots[2:])
    assert all(f">{tick}</text>" in page(REPORT, TASKS) for tick in ("0.90", "0.95", "1.00"))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_flat_curve_stays_inside_its_plot(share: float) -> None:
    report = {**REPORT, "abstention": [{"rejected": r, "accuracy": share} for r in (0.0, 0.5)]}
    dots = [float(c["cy"] or -1) for c in read(report).of("circle")][2:]
    assert len(dots) == 2 and all(MARGIN / 2 <= y <= MARGIN / 2 + SIDE for y in dots)


def test_names_are_text_and_never_markup() -> None:
    bad = "<b>bold</b>&\"'"
    report = copy.deepcopy(REPORT)
    for split in ("train", "test"):
        report["counts"][split][bad] = report["counts"][split].pop("letters")
    report["tasks"][bad] = report["tasks"].pop("letters")
    report |= {"added": [{**ADDED, "task": bad}], "removed": [bad], "reason": f"{bad} chose"}
    report["comparison"][0]["features"] = bad
    end = {bad: {"sums": 0.5, bad: 0.25, "average": 0.375}}
    html = page(report, ["sums", bad], end)
    assert "<b>bold" not in html and "&lt;b&gt;bold&lt;/b&gt;&amp;" in html
    found = read(report, ["sums", bad], end=end)
    assert sum(row[0] == bad for row in found.rows if row) == 5, "features, tasks, confusion, added, effect"
    assert f"Removed since: {bad}." in found.text


def test_a_router_made_without_prompts_says_so() -> None:
    found = read(DATALESS)
    assert "Projection features with dataless: no prompts were given." in found.text
    assert "Made without prompts: nothing could be measured or calibrated" in found.text
    assert not found.of("table") and not found.of("svg") and not found.of("li")
    assert "Made without prompts" not in read(REPORT).text


@pytest.mark.parametrize("report", [REPORT, DATALESS], ids=["trained", "dataless"])
def test_what_came_and_went_since_is_told(report: dict[str, Any]) -> None:
    assert "since" not in read(report).text
    later = {**ADDED, "task": "rhymes", "recall": 0.5}
    found = read({**report, "added": [ADDED, later], "removed": ["letters", "sums"]})
    assert ["colours", "57", "13", "92.3 %", "7.7 %", "3.2 %"] in found.rows
    assert ["rhymes", "57", "13", "50.0 %", "7.7 %", "3.2 %"] in found.rows
    assert "Removed since: letters, sums." in found.text


@pytest.mark.parametrize("report", [REPORT, DATALESS], ids=["trained", "dataless"])
def test_the_effect_on_answers_is_shown_by_arm(report: dict[str, Any]) -> None:
    assert "Effect on answers" not in read(report).text
    found = read(report, end=END, seconds=3.14159)
    table = [row for row in found.rows if row][:4]
    assert table == [
        ["exact match, %", "static", "own"],
        ["sums", "11.1", "77.7"],
        ["letters", "33.3", "77.7"],
        ["average", "22.2", "88.8"],
    ]
    assert "Routing 1,000 of these prompts took 3.1 s." in found.text
    assert "Routing 1,000" not in read(report, end=END).text


@pytest.mark.parametrize("report", [REPORT, DATALESS], ids=["trained", "dataless"])
def test_the_page_runs_and_fetches_nothing(report: dict[str, Any]) -> None:
    html = page({**report, "added": [ADDED]}, TASKS, END, 1.0)
    found = read({**report, "added": [ADDED]}, end=END, seconds=1.0)
    assert html.startswith("<!doctype html>") and html.rstrip().endswith("</html>")
    names = {name for _, attributes in found.elements for name in attributes}
    assert not names & {"src", "href", "action", "srcset", "data"}
    assert not any(name.startswith("on") for name in names)
    assert not {tag for tag, _ in found.elements} & {"script", "link", "iframe", "img", "object", "base"}
    assert not re.search(r"https?:|//|url\(|@import", html)
