"""JSON as vendors write it."""

from __future__ import annotations

import math

import pytest

from daemon.providers.lenient_json import Unreadable, documents, fields, items, word


def test_what_the_strict_decoder_refuses_is_read() -> None:
    assert math.isnan(documents(b'{"a": NaN}')[0]["a"])
    assert documents(rb'{"a": "\ud83d"}') == [{"a": "\ud83d"}]
    assert documents(b'{"a": "x\ny\tz"}') == [{"a": "x\ny\tz"}]
    assert documents(b'{"a": "\xf0"}') == [{"a": "\ufffd"}]
    assert documents(b'{"a": "\xed\xa0\xbd"}') == [{"a": "\ud83d"}]
    assert documents(b"\xef\xbb\xbf data: data: {}") == [{}]
    assert documents(b'{"a": ' + b"9" * 5000 + b"}") == [{"a": float("inf")}]


def test_several_documents_of_one_payload_come_in_their_order() -> None:
    assert documents(b'{"a": 1}{"b": 2}') == documents(b'[{"a": 1}, {"b": 2}]') == [{"a": 1}, {"b": 2}]
    assert documents(b'ping\n{"a": 1}') == [{"a": 1}]


@pytest.mark.parametrize("payload", [b"ping", b"7", b'"text"', b"", b"[]", b"[1, 2]"])
def test_words_and_numbers_hold_no_document(payload: bytes) -> None:
    assert documents(payload) == []


@pytest.mark.parametrize("payload", [b'{"a"', b"{'a': 1}", b"{]}", b'{"a":' * 5000 + b"1" + b"]" * 5000, b"[{"])
def test_what_is_cut_or_no_json_is_unreadable(payload: bytes) -> None:
    with pytest.raises(Unreadable):
        documents(payload)


def test_what_is_deeper_than_anything_that_is_read_is_null() -> None:
    deep = b'{"a": "x", "b": [' + b'{"c":' * 5000 + b'"}"' + b"}" * 5000 + b'], "d": "y"}'
    found = documents(deep)[0]
    assert (found["a"], found["d"]) == ("x", "y")


def test_fields_items_and_words_take_any_type() -> None:
    assert [fields({"a": 1}), fields([1]), fields(None)] == [{"a": 1}, {}, {}]
    assert [list(items([1, 2])), list(items({"a": 1})), list(items(None))] == [[1, 2], [{"a": 1}], []]
    assert [word("x"), word(""), word({"reason": "x"}), word({"reason": 1}), word(7)] == ["x", None, "x", None, None]
