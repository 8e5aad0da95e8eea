"""Named statements."""

from __future__ import annotations

import pytest

from daemon.store.sql import load_queries, parse


def test_statements_are_found_by_name() -> None:
    """Text before the first name is for readers."""
    assert parse("-- why\n\n-- name: one\nSELECT 1\n\n-- name: two\nSELECT\n  2\n") == {
        "one": "SELECT 1",
        "two": "SELECT\n  2",
    }


def test_an_include_puts_in_the_text_of_another() -> None:
    """So that two statements share what must be the same in both."""
    assert parse("-- name: a\nWITH x\n-- name: b\n-- include: a\nSELECT")["b"] == "WITH x\nSELECT"


def test_a_name_given_twice_or_an_unknown_include_is_an_error() -> None:
    """Said at start, not at the first task."""
    with pytest.raises(ValueError, match=r"named twice: \['a', 'a'\]"):
        parse("-- name: a\nSELECT 1\n-- name: a\nSELECT 2")
    with pytest.raises(ValueError, match="unknown statement: nothing"):
        parse("-- name: a\n-- include: nothing")


def test_no_statement_of_the_store_is_left_with_an_include() -> None:
    """One level is all there is."""
    queries = load_queries()
    assert {"claim", "claim_with_context", "finish", "leave", "heartbeat"} <= queries.keys()
    assert [name for name, sql in queries.items() if "-- include:" in sql] == []


def test_the_two_claims_judge_a_row_by_the_same_words() -> None:
    """The one with context only adds to the other."""
    queries = load_queries()
    assert queries["claim"].startswith(queries["claim_core"])
    assert queries["claim_core"] in queries["claim_with_context"]
