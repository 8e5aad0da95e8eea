"""What people are told: names that nobody reads, values as text."""

from __future__ import annotations

import pytest

from daemon.config.shown import text_of, unknown


def test_an_unknown_name_gets_a_hint_that_looks_past_the_prefix() -> None:
    """Names that share nothing but the prefix are not alike."""
    environ = {"APP_SISE": "1", "APP_X": "1", "APP_SIZE": "1", "APP_KEY_FILE": "k", "OTHER": "1"}
    assert list(unknown(environ, "APP_", ["APP_SIZE", "APP_KEY", "OTHERS"])) == [
        "APP_SISE is not a setting; did you mean APP_SIZE?",
        "APP_X is not a setting",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ([], "-"),
        (True, "true"),
        (["a", "b"], "a, b"),
        (0.1 + 0.2, "0.3"),
        (7776000.0, "7776000"),
        (5, "5"),
    ],
)
def test_a_value_reads_as_people_write_it(value: object, text: str) -> None:
    """Without brackets, exponents and rounding noise."""
    assert text_of(value) == text
