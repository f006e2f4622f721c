"""The report of an experiment in a real browser, and what holds of both views: axe, phones, dark mode."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest

from serve.api.security import Security
from serve.serversettings import ServerSettings
from tests.serve.web.reports import REPORT, Reports
from tests.serve.web.steady import SteadyEngine

expect: Any = pytest.importorskip("playwright.sync_api", reason="needs Playwright: `make deps-test`").expect
expect.set_options(timeout=15_000)
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "device_scale_factor": 2}


def report_shown(page: Any) -> None:
    expect(page.get_by_role("heading", name="static-or-dynamic")).to_be_visible()
    expect(page.locator("effect-chart canvas")).to_be_visible()


def cells(page: Any, table: str) -> list[list[str]]:
    """The texts of a table's rows below its head."""
    rows = page.get_by_role("table", name=table).locator("tbody tr").all()
    return [[cell.inner_text().strip() for cell in row.locator("th, td").all()] for row in rows]


def test_the_report_is_read_and_followed(visit: Any) -> None:
    reports = Reports(REPORT)
    page = visit(SteadyEngine(), routes=reports.routes).open()
    page.get_by_role("link", name="Experiments").click()
    expect(page.get_by_role("heading", name="Experiments")).to_be_focused()
    report_shown(page)
    expect(page.get_by_text(REPORT["decision"])).to_be_visible()
    assert cells(page, "Arms") == [
        ["static control", "static", "50%", "1,204", "3,611"],
        ["dynamic", "dynamic", "50%", "1,187", "3,580"],
    ]
    assert cells(page, "thumbs by arm") == [
        ["static", "0.412", *["–"] * 4, "control"],
        ["dynamic", "0.688", "+0.276", "+67%", "+0.237 … +0.315", "+0.219 … +0.333", "better"],
    ]
    assert cells(page, "Guardrails") == [["latency", "dynamic", "+8.3%", "20%", "undecided"]]
    assert cells(page, "By routed task")[1] == [
        "no expert trusted", "dynamic", "thumbs", "390", "0.66", "+0.1", "−0.02 … +0.22"
    ]  # fmt: skip
    assert cells(page, "Shadow") == [
        ["all", "1,204", "91%", "89.2 … 92.5%", "0.84", "0.62"],
        ["no expert trusted", "12", "100%", "75.7 … 100%", "0.8", "–"],
    ]
    expect(page.get_by_role("heading", name="soft in the shadow")).to_be_visible()
    expect(page.get_by_text("2 of its answers failed.")).to_be_visible()
    expect(page.get_by_text("Canary: dynamic at 50 % since 14:02 UTC, no step is left.")).to_be_visible()
    page.get_by_text("The same as a table").click()
    assert len(cells(page, "Effect on thumbs")) == len(REPORT["over_time"]["thumbs"])
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    later = copy.deepcopy(REPORT) | {"decision": "switch to dynamic"}
    later["arms"][0]["units"] = 1300
    reports.tell(later)
    expect(page.locator(".decision")).to_contain_text("switch to dynamic")
    assert cells(page, "Arms")[0][3] == "1,300"
    expect(page.locator("#said")).to_have_text("switch to dynamic")
    page.get_by_role("link", name="Playground").click()
    deadline = time.monotonic() + 60
    while reports.followers and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reports.followers == 0


def test_a_stream_that_breaks_is_opened_again_and_nothing_is_missed(visit: Any) -> None:
    reports = Reports(REPORT)
    page = visit(SteadyEngine(), routes=reports.routes).open("#/experiments")
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    reports.reports[REPORT["name"]] = REPORT | {"decision": "told while nobody listened"}
    reports.drop()
    expect(page.locator(".decision")).to_contain_text("told while nobody listened")
    expect(page.get_by_text("live", exact=True)).to_be_visible()


def test_a_broken_sample_ratio_is_told_first(visit: Any) -> None:
    broken = REPORT | {"srm": {"p_value": 0.00002, "alarm": True}}
    page = visit(SteadyEngine(), routes=Reports(broken).routes).open("#/experiments/static-or-dynamic")
    expect(page.get_by_role("alert").filter(has_text="did not get the shares")).to_be_visible()


def test_of_several_experiments_one_is_chosen_by_its_address(visit: Any) -> None:
    other = REPORT | {"name": "other", "state": "stopped", "decision": "no decision yet"}
    page = visit(SteadyEngine(), routes=Reports(other, REPORT).routes).open("#/experiments")
    report_shown(page)  # the one that runs
    page.get_by_role("link", name="other").click()
    expect(page.get_by_role("heading", name="other")).to_be_visible()
    expect(page.get_by_text("no decision yet")).to_be_visible()
    assert page.url.endswith("#/experiments/other")


@pytest.mark.parametrize("routes", [None, Reports().routes])
def test_without_experiments_the_view_says_so(visit: Any, routes: Any) -> None:
    page = visit(SteadyEngine(), routes=routes).open("#/experiments")
    expect(page.get_by_role("heading", name="No experiment runs here")).to_be_visible()


def test_a_report_with_no_data_yet_has_dashes(visit: Any) -> None:
    empty = REPORT | {
        "metrics": [{"name": "thumbs", "direction": "higher", "guardrail": None, "unit": "",
                     "arms": [{"arm": "static", "mean": None}, {"arm": "dynamic", "mean": None}]}],
        "over_time": {}, "guardrails": [], "tasks": [], "srm": None,
    }  # fmt: skip
    page = visit(SteadyEngine(), routes=Reports(empty).routes).open("#/experiments")
    expect(page.get_by_role("table", name="thumbs by arm")).to_be_visible()
    assert cells(page, "thumbs by arm")[1] == ["dynamic", *["–"] * 6]


def test_the_view_reads_experiments_with_the_key(visit: Any) -> None:
    guarded = ServerSettings(security=Security(api_key="tws-secret"))
    page = visit(SteadyEngine(), guarded, Reports(REPORT).routes).open("#/experiments")
    field = page.get_by_label("API key", exact=True)
    field.fill("tws-secret")
    field.press("Enter")
    report_shown(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["", "#/experiments"])
@pytest.mark.parametrize("size", [{}, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing_and_phones_need_not_scroll_sideways(
    visit: Any, scheme: str, view: str, size: dict[str, Any]
) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python"
    ).Axe()
    tab = visit(SteadyEngine(), routes=Reports(REPORT).routes, color_scheme=scheme, **size)
    page = tab.open(view)
    if view:
        report_shown(page)
        page.get_by_text("The same as a table").click()
    else:
        page.get_by_text("API key").first.click()
        page.get_by_label("I do").check()
        page.get_by_label("Prompt", exact=True).fill("sort these")
        page.get_by_role("button", name="Ask both").click()
        expect(page.get_by_text("Both answers are the same.")).to_be_visible()
    found = axe.run(page)
    assert found.violations_count == 0, found.generate_report()
    assert {"color-contrast", "aria-allowed-attr"} <= {rule["id"] for rule in found.response["passes"]}
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_dark_is_dark_and_changes_while_it_is_looked_at(visit: Any) -> None:
    page = visit(SteadyEngine(), routes=Reports(REPORT).routes, color_scheme="light").open("#/experiments")
    report_shown(page)

    def background() -> int:
        return page.evaluate("+getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/)[0]")

    assert background() > 200
    canvas = "document.querySelector('effect-chart canvas').toDataURL()"
    drawn = page.evaluate(f"new Promise(requestAnimationFrame).then(() => {canvas})")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"drawn => {canvas} !== drawn", arg=drawn)
    assert background() < 60


def test_an_experiment_that_just_began_shows_its_arms_alone(visit: Any) -> None:
    known = {key: REPORT[key] for key in ("name", "version", "state", "control", "arms", "srm")}
    began = known | {"metrics": [{"name": "thumbs", "direction": "higher", "guardrail": None}]}
    page = visit(SteadyEngine(), routes=Reports(began).routes).open("#/experiments")
    expect(page.get_by_role("table", name="Arms")).to_be_visible()
    expect(page.get_by_text("No figures yet.")).to_be_visible()
