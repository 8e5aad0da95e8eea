"""Bodies as JavaScript and Python write them: `JSON.stringify(text.slice(0, n))` leaves half an emoji."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.messages import canonical_sha256, read_body

#: pieces that meet badly: halves, whole pairs, backslashes before what looks like an escape
PIECES = st.lists(
    st.sampled_from(["\\", "u", "d83d", "\ud83d", "\ude00", "\U0001f600", "a", '"', "\n", "é"]), max_size=8
)


def mended(text: str) -> str:
    """What JSON parsers that join pairs and replace halves make of `text`."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        (rb'{"q":"cut \ud83d"}', {"q": "cut \ufffd"}),
        (rb'{"q":"\uDE00 rest"}', {"q": "\ufffd rest"}),
        (rb'{"q":"\ud83d\ud83d\ude00"}', {"q": "\ufffd\U0001f600"}),
        (rb'{"q":"a path: C:\\ud83d, half: \ud83d\n"}', {"q": "a path: C:\\ud83d, half: \ufffd\n"}),
        (rb'{"\ud83d":{"deep":["\ud83d"]}}', {"\ufffd": {"deep": ["\ufffd"]}}),
    ],
)
def test_half_a_pair_becomes_the_replacement_character(raw: bytes, read: Any) -> None:
    assert read_body(raw) == read


@given(PIECES)
def test_any_text_is_read_as_a_mending_parser_reads_it(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert read_body(json.dumps({"q": text}).encode()) == {"q": mended(text)}


@pytest.mark.parametrize(
    "raw",
    [b"", rb'"\ud83d', rb'"\ud"a"', rb'"\ud8', rb'{"a":"\ud83d",}', rb'"\ud83d" x', b'"\xed\xa0\xbd"', b'{"a": NaN}'],
)
def test_what_is_no_json_stays_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_body(raw)


def test_the_identity_of_a_body_is_that_of_its_mended_text() -> None:
    """A retry whose client writes U+FFFD itself is the same message, not a conflict."""
    assert canonical_sha256(read_body(rb'{"q":"cut \ud83d"}')) == canonical_sha256({"q": "cut \ufffd"})
