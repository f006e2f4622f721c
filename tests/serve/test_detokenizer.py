"""Pieces of text add up to the whole, and stop strings never leak."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from serve.detokenizer import Detokenizer

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_tokenizer():
    """Every token is one byte, so that most characters outside ASCII need several tokens."""
    raw = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(ALPHABET)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False)


TOKENIZER = byte_tokenizer()


def pieces(text, stop=()):
    detokenizer = Detokenizer(TOKENIZER, stop)
    out = []
    for token in TOKENIZER.encode(text, add_special_tokens=False):
        out.append(detokenizer.push(token))
        if detokenizer.stopped:
            return out, True
    out.append(detokenizer.finish())
    return out, detokenizer.stopped


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=30))
def test_pieces_add_up_and_no_character_is_broken(text):
    text = text.encode("utf-8", "ignore").decode()
    out, stopped = pieces(text)
    assert "".join(out) == text and not stopped
    assert all("\ufffd" not in piece for piece in out) or "\ufffd" in text


@settings(deadline=None, max_examples=200)
@given(text=st.text("abc", max_size=20), stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_string(text, stop):
    out, stopped = pieces(text, tuple(stop))
    # The first stop string to be complete ends the answer; of several, the one that begins first.
    ends = [n for n in range(1, len(text) + 1) if any(text[:n].endswith(word) for word in stop)]
    if not ends:
        assert ("".join(out), stopped) == (text, False)
        return
    seen = text[: ends[0]]
    expected = seen[: min(seen.find(word) for word in stop if word in seen)]
    assert ("".join(out), stopped) == (expected, True)


@settings(deadline=None, max_examples=100)
@given(text=st.text("ab ", max_size=20))
def test_a_part_of_a_stop_string_is_never_shown_early(text):
    detokenizer = Detokenizer(TOKENIZER, ("ab ab",))
    shown = ""
    for token in TOKENIZER.encode(text, add_special_tokens=False):
        shown += detokenizer.push(token)
        assert "ab ab" not in shown
        if detokenizer.stopped:
            assert shown == text[: text.find("ab ab")]
            return
    assert shown + detokenizer.finish() == text


def test_an_unfinished_character_is_shown_at_the_end():
    detokenizer = Detokenizer(TOKENIZER)
    for token in TOKENIZER.encode("é", add_special_tokens=False)[:1]:
        assert detokenizer.push(token) == ""
    assert detokenizer.finish() == "\ufffd"
