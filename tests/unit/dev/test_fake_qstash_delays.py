"""Waiting times of the fake QStash."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from daemon.dev.fake_qstash.delays import RetryDelay, asked_delay_s, default_delay_s, duration_s

WALL = datetime(2026, 11, 23, 7, 0, tzinfo=UTC).timestamp()


def test_the_default_backoff_is_the_documented_one() -> None:
    """12 s, 2 m 28 s, 30 m 8 s, 6 h 7 m 6 s, then a day each."""
    assert [int(default_delay_s(retry)) for retry in (1, 2, 3, 4, 5, 6, 1000)] == [
        12, 148, 1808, 22026, 86400, 86400, 86400
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 10),
        ("10s", 10),
        ("6m5s", 365),
        ("1d2h", 93600),
        ("250ms", 0.25),
        ("1.5h", 5400),
        ("7us", 7e-6),
        ("3ns", 3e-9),
    ],
)
def test_durations_are_read_as_go_writes_them(text: str, seconds: float) -> None:
    """A bare number is seconds."""
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-5s", "5 s", "5x", "1h-2m", "٣s", "1e3", "nan"])
def test_other_durations_are_refused(text: str) -> None:
    """With an example."""
    with pytest.raises(ValueError, match="duration"):
        duration_s(text)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "30"}, 30),
        ({"retry-after": "Mon, 23 Nov 2026 07:01:00 GMT"}, 60),
        ({"retry-after": "Mon, 23 Nov 2026 06:00:00 GMT"}, 0),
        ({"retry-after": "Wed, 25 Nov 2026 07:00:00 GMT"}, None),
        ({"retry-after": "90000", "x-ratelimit-reset-requests": "1m"}, 60),
        ({"x-ratelimit-reset": "5", "x-ratelimit-reset-tokens": "6"}, 5),
        ({"retry-after": "soon", "x-ratelimit-reset-tokens": "6m0s"}, 360),
    ],
)
def test_a_receiver_may_ask_for_a_delay(headers: dict[str, str], expected: float | None) -> None:
    """Seconds, HTTP date or duration; more than a day counts as not asked."""
    assert asked_delay_s(headers, WALL) == expected


@pytest.mark.parametrize(
    ("text", "delays"),
    [
        ("1000", [1, 1, 1]),
        ("1000 * (1 + retried)", [1, 2, 3]),
        ("pow(2, retried) * 1000", [1, 2, 4]),
        ("min(2500, max(10, exp(retried) * 1000))", [1, 2.5, 2.5]),
        ("round(1499.5) + floor(0.9) + ceil(0.1) - abs(-1) + sqrt(4)", [1.502, 1.502, 1.502]),
        ("-5", [0, 0, 0]),
        ("(7 - retried) % 4 * 1000 / 2", [1.5, 1, 0.5]),
        ("min(1, 2, 3) + max(5)", [0.006, 0.006, 0.006]),
        ("1e300 * 1e300", [366 * 86400] * 3),
    ],
)
def test_an_expression_gives_milliseconds(text: str, delays: list[float]) -> None:
    """Of `retried`, never negative, at most a year."""
    expression = RetryDelay.parse(text)
    assert [expression.seconds(retried) for retried in range(3)] == pytest.approx(delays)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "retries",
        "__import__('os').system('x')",
        "retried.real",
        "[1][0]",
        "'a'",
        "True",
        "pow(2)",
        "sqrt(1, 2)",
        "min()",
        "pow(x=1, y=2)",
        "2 ** 9",
        "1 if retried else 2",
        "lambda: 1",
        "1 / 0",
        "pow(10, 1000)",
        "sqrt(-1)",
        "1e400 - 1e400",
        "9" * 600,
        "(" * 300,
        "1\n2",
    ],
)
def test_an_expression_can_do_nothing_else(text: str) -> None:
    """ValueError, whatever is tried."""
    with pytest.raises(ValueError, match=r"expression|takes|domain"):
        RetryDelay.parse(text)


def test_an_expression_may_lose_its_value_later() -> None:
    """Then the caller falls back to the default."""
    expression = RetryDelay.parse("1000 / (1 - retried)")
    with pytest.raises(ValueError, match="no value"):
        expression.seconds(1)
