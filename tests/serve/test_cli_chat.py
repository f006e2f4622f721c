"""twinserve chat, its lines fed by standard input."""

from __future__ import annotations

import pytest

from serve.chatclient import Conversation, connect
from tests.commands import run
from tests.serve.routed import add_router
from tests.serve.server import serving
from tests.serve.stub_engine import StubEngine


@pytest.fixture
def engine():
    return StubEngine()


@pytest.fixture
def talk(engine, tmp_path, monkeypatch):
    """``talk(lines)``: what a conversation with the stub engine prints."""
    monkeypatch.setenv("TWINSERVE_API_KEY", "secret")
    with serving(engine) as address:
        yield lambda *lines, options=(), code=0: run(
            tmp_path, "chat", address, *options, stdin="\n".join(lines) + "\n", code=code
        )


def said(engine, number):
    """What the engine was asked, as the chat template writes it."""
    return engine.tokenizer.decode(engine.requests[number].prompt)


def test_answers_come_with_their_mixture_and_the_conversation_is_kept(engine, talk):
    shown = talk("sort these", "", "and [b]those[/b]", options=("--system", "Be brief.")).stdout
    assert shown.count("one two three four\n") == 2
    assert "dynamic by router, confidence 0.75" in shown
    assert f"sorting {'█' * 24} 1.00" in shown
    assert len(engine.requests) == 2
    system, first = "<|system|>Be brief.<eos>", "<|user|>sort these<eos>"
    assert said(engine, 0) == f"{system}{first}<|assistant|>"
    second = "<|assistant|>one two three four<eos><|user|>and [b]those[/b]<eos><|assistant|>"
    assert said(engine, 1) == f"{system}{first}{second}"


def test_commands(engine, talk):
    shown = talk(
        "sort", "/model static", "again", "/model twin:sorting", "/clear", "new", "/quit", "never"
    ).stdout
    assert "shared base" in shown and "static by static" in shown and "sorting by model" in shown
    assert [request.target.kind for request in engine.requests] == ["dynamic", "static", "task"]
    assert said(engine, 2) == "<|user|>new<eos><|assistant|>"


def test_mistakes_are_told_and_the_conversation_goes_on(engine, talk):
    engine.fail, engine.fail_at = ValueError("broken"), 2
    shown = talk("/model nobody", "/help", "fails").stdout
    assert "there is no model 'nobody'; the models are twin, twin:dynamic" in shown
    assert "the commands are /model NAME, /clear, /quit" in shown
    assert "The server failed on request" in shown
    engine.fail = None
    talk("x" * 300, "fine")
    assert said(engine, -1) == "<|user|>fine<eos><|assistant|>"


def test_an_endpoint_that_is_not_there_is_an_error(tmp_path):
    done = run(tmp_path, "chat", "http://127.0.0.1:9", code=1)
    assert "http://127.0.0.1:9/v1/ cannot be reached" in done.stderr


def test_no_order_reaches_the_terminal(engine, talk, monkeypatch):
    monkeypatch.setattr("tests.serve.stub_engine.ANSWER", ("a\x1b[2J", "b\r", "c", "\n"))
    shown = talk("sort").stdout
    assert "a[2Jbc\n" in shown and "\x1b[2J" not in shown


def test_a_bundle_answers_without_a_server(tmp_path):
    from tests.bundles import adapter_zoo

    zoo = adapter_zoo(tmp_path, "llama")
    add_router(zoo.bundle.path)
    options = ("--max-tokens", 8, "--model", "t1")
    lines = "spell 1 then 2\n/model dynamic\n/clear\n3 + 4 =\n"
    shown = run(tmp_path, "chat", zoo.bundle.path, *options, stdin=lines).stdout
    assert "t1 by model" in shown and "dynamic by router, confidence" in shown and "t0 █" in shown


@pytest.mark.parametrize(
    "address", ["http://host:1", "http://host:1/", "http://host:1/v1", "http://host:1/v1/"]
)
def test_the_key_is_sent_to_any_spelling_of_the_address(address):
    with connect(address, "secret") as client:
        request = client.build_request("GET", "models")
    assert str(request.url) == "http://host:1/v1/models"
    assert request.headers["authorization"] == "Bearer secret"


def test_of_a_stopped_answer_what_was_said_is_kept(engine):
    engine.hold_at = 3
    with serving(engine) as address, connect(address, None) as client:
        conversation = Conversation(client, {})
        pieces = conversation.say("sort")
        while next(pieces).text != " two":
            pass
        pieces.close()
    assert conversation.messages[-1] == {"role": "assistant", "content": "one two"}
    assert engine.cancelled == 1
