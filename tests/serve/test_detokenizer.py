"""Pieces of text add up to the whole, and stop strings never leak."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given, settings
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


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=30))
def test_pieces_add_up_and_no_character_is_broken(text):
    text = text.encode("utf-8", "ignore").decode()
    detokenizer = Detokenizer(TOKENIZER)
    out = [detokenizer.push(token) for token in TOKENIZER.encode(text, add_special_tokens=False)]
    out.append(detokenizer.finish())
    assert "".join(out) == text and not detokenizer.stopped
    assert all("\ufffd" not in piece for piece in out) or "\ufffd" in text


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=12), st.text(max_size=12), st.sampled_from(["", "n", "€"]))
def test_an_answer_goes_on_where_the_prompt_ends(prompt, answer, stop):
    prompt, answer = (text.encode("utf-8", "ignore").decode() for text in (prompt, answer))
    before = TOKENIZER.encode(prompt, add_special_tokens=False)
    alone, behind = (Detokenizer(TOKENIZER, (stop,) if stop else (), ids) for ids in ((), before))
    for token in TOKENIZER.encode(answer, add_special_tokens=False):
        assert alone.push(token) == behind.push(token)
    assert alone.finish() == behind.finish() and alone.stopped == behind.stopped


def test_half_a_character_before_an_answer_is_left_alone():
    first, *rest = TOKENIZER.encode("é!", add_special_tokens=False)
    alone, behind = Detokenizer(TOKENIZER), Detokenizer(TOKENIZER, before=[first])
    assert [behind.push(token) for token in rest] == [alone.push(token) for token in rest]


def test_the_first_word_of_an_answer_keeps_its_space_behind_a_prompt():
    raw = Tokenizer(models.BPE({"<unk>": 0, "▁the": 1, "▁cat": 2}, [], unk_token="<unk>"))
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    assert Detokenizer(tokenizer).push(2) == "cat"
    assert Detokenizer(tokenizer, before=[1]).push(2) == " cat"
    assert Detokenizer(tokenizer, before=[1] * 50).push(2) == " cat"


class Pieces:
    """Every token is one given piece of UTF-8, however characters are cut."""

    def __init__(self, pieces):
        self.pieces = pieces

    def decode(self, ids, **_):
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", "replace")


def cut_at_stops(text, stop):
    """Text before the first stop string to be complete; of several, before the one that begins first."""
    for end in range(1, len(text) + 1):
        if starts := [end - len(word) for word in stop if text[:end].endswith(word)]:
            return text[: min(starts)], True
    return text, False


@st.composite
def texts_and_stops(draw):
    """Stop strings mostly out of the text, or they would seldom be met."""
    text = draw(st.text("ab é😀\ufffd", max_size=14))
    words = st.builds(
        lambda start, length, more: text[start : start + length] + more,
        st.integers(0, 13),
        st.integers(1, 6),
        st.sampled_from(["", "", "a"]),
    )
    return text, draw(st.lists(words.filter(bool), max_size=4))


@settings(deadline=None, max_examples=300)
@given(case=texts_and_stops(), cuts=st.sets(st.integers(1, 40)))
@example(case=(" aa", ["a", " aa"]), cuts=set())
def test_stop_strings_end_the_text_and_never_leak_however_it_is_cut_into_tokens(case, cuts):
    text, stop = case
    raw = text.encode()
    edges = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
    pieces = [raw[start:end] for start, end in pairwise(edges)]
    detokenizer = Detokenizer(Pieces(pieces), tuple(stop))
    expected, stops = cut_at_stops(text, stop)
    shown = ""
    for token in range(len(pieces)):
        shown += detokenizer.push(token)
        assert expected.startswith(shown)
        if detokenizer.stopped:
            break
    else:
        shown += detokenizer.finish()
    assert (shown, detokenizer.stopped) == (expected, stops)


def test_an_unfinished_character_is_shown_at_the_end():
    detokenizer = Detokenizer(TOKENIZER)
    for token in TOKENIZER.encode("é", add_special_tokens=False)[:1]:
        assert detokenizer.push(token) == ""
    assert detokenizer.finish() == "\ufffd"
