"""A completion whose prompt is the chat template filled in is routed as the chat would be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from serve.engine import Engine
from serve.filledtemplate import conversation
from serve.settings import EngineSettings
from tests import tiny
from tests.bundles import adapter_zoo
from tests.serve.routed import WORDS, add_router
from tests.serve.server import serving
from tests.serve.stub_engine import CHAT_TEMPLATE, tokenizer

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|system|>Be kind.\n{% endif %}"
    "<|{{ m['role'] }}|>\n{{ m['content'] | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ONE_TURN = (
    "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}"
    "Q: {{ messages[0]['content'] }}\nA:"
)
WITHOUT_PROMPT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
TWICE = "{% for m in messages %}{{ m['content'] }}/{{ m['content'] }};{% endfor %}A:"
TURNS = ["spell 7\nthen 5", "7 5", "and 8 then 1?", "8 1", "thanks"]


def filled(template: str, contents: list[str], **options: Any) -> tuple[Any, str]:
    """A tokenizer, and what its template makes of users and assistant in turn."""
    made = tokenizer(template)
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    text = made.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **options)
    return made, text


@pytest.mark.parametrize("template", [CHATML, CHAT_TEMPLATE, tiny.CHAT_TEMPLATE])
@pytest.mark.parametrize("turns", [1, 3, 5])
@pytest.mark.parametrize("answer", ["", "no", " A: 7"])
def test_the_turns_of_the_user_are_found(template, turns, answer):
    made, text = filled(template, TURNS[:turns])
    found = conversation(made, text + answer)
    assert found is not None
    assert found.turns == tuple(TURNS[:turns:2]) and found.end == len(text)


@pytest.mark.parametrize("template", [ONE_TURN, WITHOUT_PROMPT, TWICE, None])
def test_a_template_that_hides_where_turns_end_finds_nothing(template):
    text = "Q: spell 7\nA: 7" if template is None else filled(template, TURNS[:1])[1] + "7"
    assert conversation(tokenizer(template), text) is None


@pytest.mark.parametrize(
    "text",
    [
        "spell 7 then 5",
        "<|user|>\nspell 7</s>\n<|assistant|>\n7",
        "<|system|>Be kind.\n<|user|>\nspell 7 then 5",
        "<|system|>Be kind.\n<|user|>\n spell 7 </s>\n<|assistant|>\n7",
        "<|system|>Be cruel.\n<|user|>\nspell 7</s>\n<|assistant|>\n7",
        "<|system|>Be kind.\n<|user|>\na</s>\n<|assistant|>\nb</s>\n<|user|>\nspell 7",
    ],
)
def test_what_the_template_would_not_make_is_plain_text(text):
    assert conversation(tokenizer(CHATML), text) is None


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Iterator[openai.OpenAI]:
    zoo = adapter_zoo(tmp_path_factory.mktemp("filled"), "llama")
    add_router(zoo.bundle.path, features="hidden")
    engine = Engine.open(zoo.bundle.path, EngineSettings(slots=4, threads=1), name="tiny")
    try:
        with (
            serving(engine) as address,
            openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60) as made,
        ):
            yield made
    finally:
        engine.stop()


@pytest.mark.parametrize("task", WORDS)
@pytest.mark.parametrize("ids", [False, True])
def test_a_filled_template_is_answered_as_its_chat(client, task, ids):
    messages = [{"role": "user", "content": WORDS[task].format(7, 5)}]
    fields = {"model": "tiny", "max_tokens": 5, "temperature": 0}
    chat = client.chat.completions.create(messages=messages, **fields).choices[0]
    prompt = tiny.tokenizer().apply_chat_template(
        messages, add_generation_prompt=True, tokenize=ids, **({"return_dict": False} if ids else {})
    )
    plain = client.completions.create(prompt=prompt, **fields).choices[0]
    assert plain.text == chat.message.content
    assert plain.routing == chat.routing and chat.routing["mixture"] == {task: 1.0}


def test_the_router_does_not_read_the_scored_answer(client):
    """An answer in another task's words led the router astray where it was read."""
    answer = "PAINT 3 OVER 4 " * 4
    messages = [{"role": "user", "content": "spell 7 then 5"}]
    text = tiny.tokenizer().apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    fields = {"model": "tiny", "echo": True, "logprobs": 0, "max_tokens": 0}

    def routing(prompt: str) -> dict[str, Any]:
        return client.completions.create(prompt=prompt, **fields).choices[0].routing

    kept, read = routing(text + answer), routing("spell 7 then 5 " + answer)
    assert kept["source"] == "router" and kept["mixture"] == {"t1": 1.0}
    assert read["source"] == "router_on_scored_prompt" and read["mixture"] != {"t1": 1.0}
    # With no answer behind it, the question is the text that is scored, and the router has read it.
    assert routing(text)["source"] == "router_on_scored_prompt"
