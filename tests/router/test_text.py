"""What is routed of a request."""

from __future__ import annotations

from typing import Any

import pytest

from compress.errors import InputError
from router import routing_text, routing_tokens
from tests import tiny


def test_a_string_is_itself() -> None:
    assert routing_text("  as it is\n") == "  as it is\n"


def test_user_turns_are_joined_and_nobody_elses() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [{"type": "text", "text": "t"}, {"type": "text", "text": "wo"}]},
    ]
    assert routing_text(messages) == "one\ntwo"
    assert routing_text(messages[:1]) == ""


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (7, "a string or a list of messages, not int"),
        (["hi"], r"messages\[0\] must be an object with a role"),
        ([{"content": "x"}], r"messages\[0\] must be an object with a role"),
        ([{"role": "user"}], r"messages\[0\].content must be a string .*, not null"),
        ([{"role": "user", "content": 3}], r"messages\[0\].content must be a string .*, not int"),
        ([{"role": "user", "content": ["x"]}], r"content\[0\] must be a part"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"content\[0\] must be a part"),
        ([{"role": "user", "content": [{"type": "text", "text": 1}]}], r"content\[0\] must be"),
    ],
)
def test_refusals(bad: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        routing_text(bad)


def test_tokens_are_plain_ids_without_a_chat_template() -> None:
    tokenizer = tiny.tokenizer()
    assert tokenizer.decode(routing_tokens(tokenizer, "hello you")) == "hello you"
    assert routing_tokens(tokenizer, "") == []
