"""What Postgres can't hold is taken out; nothing else changes."""

from __future__ import annotations

import msgspec
import pytest

from daemon.domain.messages import TaskMessage
from daemon.store.jsonb import encode, storable, storable_text


@pytest.mark.parametrize("text", ["", "plain", "äöü ☃ 😀", "\\u0000", "line\nbreak\t\x01\x7f", "\ufffd"])
def test_good_text_is_the_same_object(text: str) -> None:
    """Nothing is copied on the common way."""
    assert storable_text(text) is text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a\x00b", "ab"),
        ("\x00", ""),
        ("x\ud800", "x\ufffd"),
        ("\udc00x", "\ufffdx"),
        ("\ud83d\ude00!", "😀!"),
        ("\ud800\x00\udc00", "𐀀"),
    ],
)
def test_bad_characters_are_dropped_or_replaced(text: str, kept: str) -> None:
    """NUL goes, half a pair becomes U+FFFD, two halves become what they meant."""
    assert storable_text(text) == kept


def test_a_tree_is_cleaned_in_every_place() -> None:
    """Keys too; numbers and None stay."""
    tree = {"a\x00": ["b\x00", {"c": ("\ud800", 1, 2.5, None, True)}]}
    assert storable(tree) == {"a": ["b", {"c": ["\ufffd", 1, 2.5, None, True]}]}


@pytest.mark.parametrize("text", ["fine", "nul \x00", "half \ud800", "said \\u0000"])
def test_json_is_always_something_that_postgres_takes(text: str) -> None:
    """Structs included, and a spelt-out escape is no NUL."""
    message = TaskMessage(task_id="t", queue_id="q", service_id="s", user_id="u", variables={text: [text]})
    decoded = msgspec.json.decode(encode({"message": message}))
    assert decoded["message"]["variables"] == {storable_text(text): [storable_text(text)]}
    assert decoded["message"]["taskId"] == "t"
