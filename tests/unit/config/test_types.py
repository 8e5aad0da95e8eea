"""Every sort of value: what it takes, what it refuses, how it is shown."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.config.types import (
    Kind,
    SecretStr,
    choice,
    flag,
    parts_of_secret,
    seconds,
    secret,
    server_url,
    several,
    text,
    web_url,
    whole,
)


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        (seconds(), "20", 20.0),
        (seconds(), "0.25", 0.25),
        (seconds(), ".5", 0.5),
        (seconds(least=0), "0", 0.0),
        (whole("tasks"), "200", 200),
        (whole(least=0), "0", 0),
        (flag(), "TRUE", True),
        (flag(), "1", True),
        (flag(), "off", False),
        (choice("disk", "redis"), "disk", "disk"),
        (text(), "/etc/services.toml", "/etc/services.toml"),
        (web_url(), "https://worker.example.com/", "https://worker.example.com"),
        (web_url(), "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        (web_url(), "https://example.com/prefix/", "https://example.com/prefix"),
        (several(text()), "a, b,,c ", ("a", "b", "c")),
    ],
)
def test_a_good_value_is_taken(kind: Kind, raw: str, value: object) -> None:
    """Text in, typed value out."""
    assert kind.parse(raw) == value


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (seconds(), "20s"),
        (seconds(), "nan"),
        (seconds(), "inf"),
        (seconds(), "1e3"),
        (seconds(), "1_000"),
        (seconds(), "-1"),
        (seconds(), "0"),
        (seconds(most=10), "10.1"),
        (seconds(), "٣"),
        (whole(), "2.0"),
        (whole(), "1_000"),
        (whole(), "0"),
        (whole(most=10), "11"),
        (whole(), "9" * 5000),
        (flag(), "ture"),
        (flag(), "2"),
        (choice("disk"), "Disk"),
        (text(), "a\x00b"),
        (secret(), "two words"),
        (web_url(), "worker.example.com"),
        (web_url(), "ftp://worker.example.com"),
        (web_url(), "https://"),
        (web_url(), "https://user:pw@worker.example.com"),
        (web_url(), "https://worker.example.com?x=1"),
        (web_url(), "https://worker.example.com#top"),
        (web_url(), "https://worker.example.com:99999"),
        (web_url(), "https://worker.example.com:port"),
        (web_url(), "https://worker.example.com:0"),
        (web_url(), "https://worker example.com"),
        (web_url(), "https://[::1"),
        (server_url("redis"), "http://127.0.0.1"),
        (server_url("redis"), "redis://"),
        (server_url("redis"), "redis://host:0"),
        (server_url("redis"), "redis://host:99999"),
        (server_url("unix"), "unix://"),
        (several(text(r"[a-z]+")), "a,B"),
    ],
)
def test_a_bad_value_is_refused(kind: Kind, raw: str) -> None:
    """ValueError and nothing else; what is allowed is said in words."""
    with pytest.raises(ValueError):
        kind.parse(raw)
    assert kind.allowed


@pytest.mark.parametrize(
    "raw",
    [
        "redis://127.0.0.1:6379/0",
        "rediss://default:pw@eu1.upstash.io:6379",
        "unix:///run/redis.sock",
        "postgresql:///qstreamd?host=/run/postgresql",
    ],
)
def test_addresses_of_servers_come_in_all_their_forms(raw: str) -> None:
    """TCP, TLS and local sockets."""
    kind = server_url("redis", "rediss", "unix", "postgresql")
    assert kind.parse(raw).get_secret_value() == raw


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("redis://:s3cret@host:6379/0", "redis://***@host:6379/0"),
        ("postgresql://user:p%40ss@host/db", "postgresql://***@host/db"),
        ("postgresql://host/db?user=u&password=s3cret&sslmode=require", "postgresql://host/db?user=u&password=***&sslmode=require"),
        ("redis://host/0", "redis://host/0"),
    ],
)  # fmt: skip
def test_an_address_is_shown_without_its_password(raw: str, shown: str) -> None:
    """Operators see where it goes, nobody sees how to get in."""
    kind = server_url("redis", "postgresql")
    assert kind.show(kind.parse(raw)) == shown


@pytest.mark.parametrize(
    ("kind", "raw", "shown"), [(secret(), "abc", "***"), (several(secret()), "abc,def", ["***"] * 2)]
)
def test_a_secret_is_shown_as_stars(kind: Kind, raw: str, shown: Any) -> None:
    """Alone and in lists."""
    assert kind.secret
    assert kind.show(kind.parse(raw)) == shown


def test_a_secret_shows_itself_only_when_asked() -> None:
    """Neither str nor repr nor a formatted container gives it away; equality and hash work."""
    value = SecretStr("s3cret")
    assert "s3cret" not in f"{value} {value!r} {[value]} {{'x': value}}"
    assert value.get_secret_value() == "s3cret"
    assert value == SecretStr("s3cret") and value != SecretStr("other") and value != "s3cret"
    assert len({value, SecretStr("s3cret")}) == 1


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("sig_abc", ["sig_abc"]),
        ("redis://:p%40ss@h/0", ["p%40ss", "p@ss"]),
        ("postgresql://h/db?password=p%40ss&sslmode=require", ["p%40ss", "p@ss"]),
        ("redis://h/0", []),
        ("web:0123456789abcdef", ["web:0123456789abcdef", "0123456789abcdef"]),
    ],
)
def test_what_is_secret_by_itself_is_known(value: str, parts: list[str]) -> None:
    """A library may print the password of a URL, quoted or not, without the URL."""
    assert parts_of_secret(value) == parts


def test_units_are_short_where_there_is_a_short_one() -> None:
    """`5 s`, but `5 tasks`."""
    units = [kind.unit for kind in (seconds(), whole("seconds"), whole("milliseconds"), whole("tasks"), flag())]
    assert units == ["s", "s", "ms", "tasks", ""]
