"""What is routed of a request."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import InputError
from router import user_turns
from router.query import Query, Turn, clip


def test_a_string_is_one_turn_without_the_space_around_it() -> None:
    assert user_turns("  as it\n is\n") == ("as it\n is",)
    assert user_turns(" \n\t") == ()


def test_turns_are_the_users_in_order_and_nobody_elses() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": " one"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "  "},
        {"role": "tool", "content": 7},
        {"role": "user", "content": [{"type": "text", "text": "t"}, {"type": "text", "text": "wo "}]},
        {"role": "user", "content": []},
    ]
    assert user_turns(messages) == ("one", "two")
    assert user_turns(tuple(messages)) == ("one", "two")
    assert user_turns(messages[:1]) == () and user_turns([]) == ()


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text(max_size=8)), max_size=8))
def test_every_word_of_the_user_is_kept_and_nothing_is_empty(said: list[tuple[str, str]]) -> None:
    turns = user_turns([{"role": role, "content": text} for role, text in said])
    assert all(turn and turn == turn.strip() for turn in turns)
    own = "".join(text for role, text in said if role == "user")
    assert "".join("".join(turns).split()) == "".join(own.split())


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (7, "a string or a list of messages, not int"),
        (None, "a string or a list of messages, not null"),
        ({"role": "user", "content": "x"}, "a string or a list of messages, not dict"),
        (["hi"], r"messages\[0\] must be an object with a role"),
        ([{"content": "x"}], r"messages\[0\] must be an object with a role"),
        ([{"role": "user"}], r"messages\[0\].content must be a string .*, not null"),
        ([{"role": "user", "content": 3}], r"messages\[0\].content must be a string .*, not int"),
        ([{"role": "user", "content": ["x"]}], r"content\[0\] must be a part"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"content\[0\] must be a part"),
        ([{"role": "user", "content": [{"type": "text", "text": 1}]}], r"content\[0\] must be"),
        ([{"role": "system", "content": 1}, {"role": "user"}], r"messages\[1\].content must be"),
    ],
)
def test_refusals(bad: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        user_turns(bad)


@settings(deadline=None, derandomize=True)
@given(st.one_of(st.text(max_size=30), st.lists(st.integers(), max_size=30)), st.integers(0, 40))
def test_clipping_keeps_both_ends(content: Any, limit: int) -> None:
    clipped = clip(content, limit)
    assert type(clipped) is type(content) and len(clipped) == min(len(content), limit)
    head = min(limit // 2, len(clipped))
    assert clipped[:head] == content[:head]
    tail = len(clipped) - head
    assert clipped[head:] == content[len(content) - tail :]


@pytest.mark.parametrize(
    ("limit", "left"), [(0, ""), (1, "g"), (2, "ag"), (5, "abefg"), (6, "abcefg"), (7, "abcdefg")]
)
def test_clipping_by_hand(limit: int, left: str) -> None:
    assert clip("abcdefg", limit) == left
    assert clip(list("abcdefg"), limit) == list(left)  # type: ignore[type-var]


def test_equal_queries_have_one_key_and_others_another() -> None:
    a, b = Turn("a", (5, 6)), Turn("b", (7,))
    turns = [(a, b), (b, a), (a,), (), (a, b, b), (Turn("a", (5, 7)), b), (Turn("A", (5, 6)), b)]
    keys = [Query(t).key for t in turns]
    assert keys == [Query(t).key for t in turns] and len(set(keys)) == len(turns)
    assert {len(key) for key in keys} == {len(Query((Turn("x" * 10_000, (1,) * 9999),)).key)}
    assert Query((Turn("\ud800", (1,)),)).key != Query((Turn("\ud801", (1,)),)).key
