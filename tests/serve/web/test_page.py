"""The playground in a real browser."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from serve.api.security import Security
from serve.live import Live
from serve.pagesettings import Page
from serve.serversettings import ServerSettings
from tests.serve.web.steady import SteadyEngine

expect: Any = pytest.importorskip("playwright.sync_api", reason="needs Playwright: `make deps-test`").expect
expect.set_options(timeout=15_000)


def static(page: Any) -> Any:
    return page.get_by_role("article", name="Static")


def dynamic(page: Any) -> Any:
    return page.get_by_role("article", name="Dynamic")


def ask(page: Any, prompt: str = "sort these") -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    button = page.get_by_role("button", name="Ask both")
    expect(button).to_be_enabled()
    button.click()


def test_both_answers_stream_side_by_side_with_their_weights(visit: Any) -> None:
    engine = SteadyEngine(held_from=3)
    page = visit(engine).open()
    ask(page)
    for card in (static(page), dynamic(page)):
        expect(card).to_contain_text("one two")
        expect(card).to_have_attribute("aria-busy", "true")
    expect(page.get_by_role("button", name="Ask both")).to_be_disabled()
    engine.go.set()
    for card in (static(page), dynamic(page)):
        expect(card).to_contain_text("one two three four")
        expect(card).to_have_attribute("aria-busy", "false")
        expect(card.get_by_text("4 tokens", exact=True)).to_be_visible()
        expect(card.get_by_text("tokens/s")).to_be_visible()
    expect(static(page)).to_contain_text("One merged model, no expert added")
    expect(dynamic(page).get_by_role("listitem")).to_contain_text(["sorting"])
    expect(dynamic(page).get_by_role("listitem")).to_contain_text(["1.00"])
    expect(dynamic(page)).to_contain_text("the router")
    expect(dynamic(page)).to_contain_text("0.75")
    expect(dynamic(page)).to_contain_text("dynamic, generation 3")
    expect(page.get_by_text("Both answers are the same.")).to_be_visible()
    assert sorted(request.target.kind for request in engine.requests) == ["dynamic", "static"]
    assert {request.turns for request in engine.requests} == {("sort these",)}


def test_a_pinned_mixture_replaces_the_router(visit: Any) -> None:
    engine = SteadyEngine()
    page = visit(engine).open()
    expect(page.get_by_text("twin", exact=True)).to_be_visible()
    page.get_by_label("I do").check()
    page.get_by_role("button", name="sorting").click()
    page.get_by_label("sentiment").fill("0.25")
    ask(page)
    expect(dynamic(page)).to_contain_text("you")
    expect(dynamic(page).get_by_role("listitem")).to_contain_text(["1.00", "0.25"])
    expect(static(page)).to_contain_text("one two three four")
    (pinned,) = (request.target for request in engine.requests if request.target.kind == "mixture")
    assert pinned.mixture == {"sorting": 1.0, "sentiment": 0.25}


def test_stop_ends_both_answers_at_the_server(visit: Any) -> None:
    engine = SteadyEngine(held_from=2)
    page = visit(engine).open()
    ask(page)
    expect(dynamic(page)).to_contain_text("one")
    expect(static(page)).to_contain_text("one")
    page.get_by_role("button", name="Stop").click()
    expect(static(page).get_by_text("stopped")).to_be_visible()
    expect(dynamic(page).get_by_text("stopped")).to_be_visible()
    expect(page.get_by_role("button", name="Ask both")).to_be_enabled()
    deadline = time.monotonic() + 60
    while engine.running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (engine.running, engine.cancelled) == (0, 2)


def test_without_a_key_the_page_says_so_and_takes_one(visit: Any) -> None:
    guarded = ServerSettings(security=Security(api_key="tws-secret"))
    tab = visit(SteadyEngine(), guarded)
    page = tab.open()
    expect(page.get_by_role("alert")).to_contain_text(["The server asks for an API key"])
    expect(page.get_by_role("button", name="Ask both")).to_be_disabled()
    # Unasked, because it is what is needed.
    field = page.get_by_label("API key", exact=True)
    field.fill("tws-wrong")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text(["does not know this API key"])
    field.fill("tws-secret")
    field.press("Enter")
    expect(field).to_be_hidden()
    ask(page)
    expect(dynamic(page)).to_contain_text("one two three four")
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    other = page.context.new_page()
    other.goto(tab.origin)
    expect(other.get_by_role("alert")).to_contain_text(["The server asks for an API key"])


@pytest.mark.parametrize("fails_at", [0, 2])
def test_an_error_is_told_in_the_servers_words(visit: Any, fails_at: int) -> None:
    engine = SteadyEngine()
    engine.fail, engine.fail_at = RuntimeError("a bug"), fails_at
    page = visit(engine).open()
    ask(page)
    expect(page.get_by_role("alert")).to_contain_text(["The server failed on request"])
    for card in (static(page), dynamic(page)):
        expect(card.get_by_text("failed", exact=True)).to_be_visible()
    engine.fail = None
    ask(page)
    expect(dynamic(page)).to_contain_text("one two three four")
    expect(page.get_by_text("The server failed")).to_have_count(0)


def test_a_refusal_that_concerns_both_is_told_once(visit: Any) -> None:
    engine = SteadyEngine()
    page = visit(engine).open()
    page.get_by_label("Tokens at most").fill("5000")
    ask(page)
    alert = page.locator("[role=alert]").get_by_text("the largest 'max_tokens' for this prompt is")
    expect(alert).to_have_count(1)


def test_while_a_bundle_loads_the_page_waits_for_it(visit: Any) -> None:
    live: Live[Any] = Live("twin", lambda bundle, number, beside: SteadyEngine())
    page = visit(live).open()
    expect(page.get_by_role("alert")).to_contain_text(["loading"])
    expect(page.get_by_role("button", name="Ask both")).to_be_disabled()
    # Playwright has an event loop in this thread.
    loader = threading.Thread(target=lambda: asyncio.run(live.switch(Path("bundle"), 0)))
    loader.start()
    loader.join()
    expect(page.get_by_role("button", name="Ask both")).to_be_enabled()
    expect(page.get_by_text("loading")).to_have_count(0)


def test_below_a_path_of_a_proxy_it_asks_there(visit: Any) -> None:
    page = visit(SteadyEngine(), below="/models/twin").open("models/twin/")
    ask(page)
    expect(dynamic(page)).to_contain_text("one two three four")


def test_an_example_fills_the_prompt(visit: Any, tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_text(
        '{"task": "sorting", "prompt": "sort these:\\nb a"}\n{"task": "more", "prompt": "<b>&amp;"}\n'
    )
    page = visit(SteadyEngine(), ServerSettings(page=Page(examples=file))).open()
    choice = page.get_by_label("Example")
    expect(choice.locator("optgroup")).to_have_count(2)
    choice.select_option(label="b a")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("sort these:\nb a")
    choice.select_option(label="<b>&amp;")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("<b>&amp;")


def test_what_a_model_writes_is_text_and_nothing_else(visit: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        "tests.serve.stub_engine.ANSWER", ("<img src=x onerror=alert(1)>", "<b>", " \n ", "end")
    )
    page = visit(SteadyEngine()).open()
    ask(page)
    expect(static(page)).to_contain_text("<img src=x onerror=alert(1)><b>")
    expect(static(page).locator("img, b")).to_have_count(0)


def test_the_whole_playground_works_by_keyboard(visit: Any) -> None:
    engine = SteadyEngine()
    page = visit(engine).open()
    expect(page.get_by_role("button", name="Ask both")).to_be_enabled()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    page.keyboard.type("sort these")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_label("I do")).to_be_checked()
    expect(page.get_by_role("slider")).to_have_count(2)
    for _ in ("sorting alone", "sentiment alone", "none", "the first slider"):
        page.keyboard.press("Tab")
    expect(page.get_by_label("sorting", exact=True)).to_be_focused()
    page.keyboard.press("End")
    page.get_by_label("Prompt", exact=True).focus()
    page.keyboard.press("Control+Enter")
    expect(dynamic(page).get_by_role("listitem")).to_contain_text(["1.00"])
    expect(page.locator("#said")).to_contain_text("Static: one two three four Dynamic: one two three four")
