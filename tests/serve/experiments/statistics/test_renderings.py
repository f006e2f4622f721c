"""The same report in the terminal and as a page."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from serve.experiments.statistics import analyse
from serve.experiments.statistics.page import page
from serve.experiments.statistics.report import ShadowReport, ShadowRow
from serve.experiments.statistics.table import print_report
from tests.serve.experiments.statistics.drawn import NOW, experiment, records, served

ACCURACY = {"name": "accuracy", "kind": "binary", "guardrail": 0.1}


class Balanced(HTMLParser):
    """Fails where tags do not close in turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Closes itself."""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report():
    rates = {"static": [0.0, 1.0] * 150, "dynamic": [0.0, 1.0, 1.0, 1.0] * 75}
    shown, told = records(rates, "accuracy")
    shown += [served(9000, "static", "both"), served(9001, "dynamic", "both")]
    return analyse(experiment(ACCURACY), shown, told, now=NOW)


@pytest.fixture(scope="module")
def empty():
    return analyse(experiment(ACCURACY), [], [], now=NOW)


def printed(report) -> str:
    console = Console(file=io.StringIO(), width=140)
    print_report(report, console)
    return console.file.getvalue()


def test_the_terminal_shows_arms_intervals_guardrails_tasks_and_the_decision(report):
    text = printed(report)
    row = report.metrics[0].arms[1]
    assert f"{row.always_valid_low:+.3g} … {row.always_valid_high:+.3g}" in text
    assert (
        "static (control)" in text and "│ sums" in text and "left out: 1 units that saw several arms" in text
    )
    assert "accuracy │ dynamic │" in text and report.decision in " ".join(text.split())
    assert "shares of the arms: as declared" in text


def test_the_page_is_whole_and_loads_nothing(report):
    html = page(report)
    Balanced(html)
    assert not re.search(r"<script|<link|https?://|url\(|@import", html)
    assert report.decision in html and html.count("<svg") == 1
    points = re.search(r'<polyline class="line" points="([^"]+)"', html)[1].split()
    assert len(points) == len(report.over_time["accuracy"]) > 20
    # A plot for eyes, the same as a table for all.
    assert html.count("<td>2023-") == len(points)


def test_plots_stay_inside_their_frame(report):
    html = page(report)
    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', html).groups())
    pairs = re.findall(r"(-?[\d.]+),(-?[\d.]+)(?=[ \"])", " ".join(re.findall(r'points="[^"]+"', html)))
    assert len(pairs) > 60
    assert all(0 <= float(x) <= width and 0 <= float(y) <= height for x, y in pairs)


def test_an_experiment_without_data_is_shown_all_the_same(empty):
    Balanced(page(empty))
    assert "<svg" not in page(empty) and "No decision yet" in page(empty)
    assert "No decision yet on dynamic" in printed(empty)


def test_where_a_canary_is_stands_in_both(report):
    told = report.model_copy(update={"canary": "canary: new at 5 % since yesterday"})
    assert "canary: new at 5 % since yesterday\n" in printed(told)
    assert '<p class="note">Canary: new at 5 % since yesterday.</p>' in page(told)
    assert "canary" not in printed(report) and "Canary" not in page(report)


def test_names_from_outside_are_text(report):
    task = report.tasks[0].model_copy(update={"task": "<script>alert(1)</script>"})
    html = page(report.model_copy(update={"tasks": [task]}))
    assert "<script" not in html and "&lt;script&gt;" in html
    arm = report.arms[0].model_copy(update={"name": "[bold]a[/bold]"})
    assert "[bold]a[/bold]" in printed(report.model_copy(update={"arms": [arm]}))


def test_shadows_are_shown_where_there_are_some(report):
    row = {"pairs": 40, "agreement": 0.75, "low": 0.6, "high": 0.86, "latency": 0.5, "shadow_latency": 0.25}
    rows = [ShadowRow(task=None, **row), ShadowRow(task="<sums>", **row), ShadowRow(task="base", pairs=0)]
    shadow = ShadowReport(arm="dynamic", failed=3, rows=rows)
    found = report.model_copy(update={"shadow": shadow})
    text = printed(found)
    assert "dynamic in the shadow" in text and "3 failed" in text and "<sums>" in text
    assert "75 %" in text and "(no expert)" in text
    html = page(found)
    Balanced(html)
    assert "dynamic in the shadow" in html and "&lt;sums&gt;" in html and "3 of its answers failed" in html
    assert "in the shadow" not in page(report) and "in the shadow" not in printed(report)
