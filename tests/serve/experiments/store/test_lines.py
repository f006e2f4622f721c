"""A record comes back from its line as it was, and a damaged line brings nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.errors import InputError
from serve.experiments.store.lines import decode, encode
from tests.serve.experiments.store import strategies
from tests.serve.experiments.store.samples import CHANGE, FEEDBACK, SERVED


@given(strategies.RECORDS)
def test_every_record_comes_back_from_its_line(record) -> None:
    line = encode(record)
    assert line.count(b"\n") == 1
    assert decode(line) == record


@given(strategies.RECORDS, st.data())
def test_a_line_with_any_other_byte_brings_nothing(record, data) -> None:
    line = bytearray(encode(record))
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] ^= data.draw(st.integers(1, 255))
    assert decode(bytes(line)) is None


@given(strategies.RECORDS, st.data())
def test_a_line_that_is_cut_brings_nothing(record, data) -> None:
    line = encode(record)
    assert decode(line[: data.draw(st.integers(0, len(line) - 1))]) is None


def test_a_record_with_fields_of_another_version_brings_nothing() -> None:
    line = encode(FEEDBACK)
    body = line[9:-1].replace(b'"key"', b'"kez"')
    assert decode(b"%08x %b\n" % (crc32(body), body)) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, "1", None])
def test_numbers_that_are_not_finite_are_refused_by_name(value) -> None:
    with pytest.raises(InputError, match=r"feedback metrics 'like': .* is no finite number; leave it out"):
        encode(replace(FEEDBACK, metrics={"like": value}))
    if isinstance(value, float):
        with pytest.raises(InputError, match="served moment"):
            encode(replace(SERVED, moment=value))


@pytest.mark.parametrize("text", ["a\0", "\ud800", "x" * 257])
def test_ids_that_a_database_cannot_hold_are_refused(text) -> None:
    with pytest.raises(InputError, match="feedback key: "):
        encode(replace(FEEDBACK, key=text))
    with pytest.raises(InputError, match="feedback metrics: "):
        encode(replace(FEEDBACK, metrics={text: 1.0}))


def test_free_text_keeps_all_but_what_cannot_be_stored() -> None:
    record = decode(encode(replace(SERVED, prompt="a\0b\udc00c\n" + "x" * 300, text="\ud83d")))
    assert (record.prompt, record.text) == ("a�b�c\n" + "x" * 300, "�")
    assert decode(encode(replace(CHANGE, reason="why\0"))).reason == "why�"
