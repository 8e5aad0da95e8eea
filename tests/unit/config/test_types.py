"""Every sort of value: what it takes, what it refuses, how it is shown."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from daemon.config.types import (
    SecretStr,
    Several,
    kind_of,
    parts_of_secret,
    seconds,
    secret,
    server_url,
    text,
    web_url,
    whole,
)

SECONDS, WHOLE, URL = Annotated[float, seconds()], Annotated[int, whole()], Annotated[str, web_url()]
SERVER = server_url("redis", "postgresql")
SECRET = Annotated[SecretStr, secret()]


def read(annotation: Any, raw: object) -> Any:
    """What pydantic makes of it."""
    return TypeAdapter(annotation).validate_python(raw)


@pytest.mark.parametrize(
    ("annotation", "raw", "value"),
    [
        (SECONDS, "20", 20.0),
        (SECONDS, "0.25", 0.25),
        (SECONDS, ".5", 0.5),
        (Annotated[float, seconds(least=0)], "0", 0.0),
        (Annotated[int, whole("tasks")], "200", 200),
        (Annotated[int, whole(least=0)], "0", 0),
        (bool, "TRUE", True),
        (bool, "1", True),
        (bool, "off", False),
        (Literal["disk", "redis"], "disk", "disk"),
        (Annotated[str, text()], "/etc/services.toml", "/etc/services.toml"),
        (URL, "https://worker.example.com/", "https://worker.example.com"),
        (URL, "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        (URL, "https://example.com/prefix/", "https://example.com/prefix"),
        (Several[Annotated[str, text()]], "a, b,,c ", ("a", "b", "c")),
    ],
)
def test_a_good_value_is_taken(annotation: Any, raw: str, value: object) -> None:
    """Text in, typed value out."""
    assert read(annotation, raw) == value


@pytest.mark.parametrize(
    ("annotation", "raw"),
    [
        (SECONDS, "20s"),
        (SECONDS, "nan"),
        (SECONDS, "inf"),
        (SECONDS, "1e3"),
        (SECONDS, "1_000"),
        (SECONDS, "-1"),
        (SECONDS, "0"),
        (Annotated[float, seconds(most=10)], "10.1"),
        (SECONDS, "٣"),
        (WHOLE, "2.0"),
        (WHOLE, "1_000"),
        (WHOLE, "0"),
        (Annotated[int, whole(most=10)], "11"),
        (WHOLE, "9" * 5000),
        (bool, "ture"),
        (bool, "2"),
        (Literal["disk"], "Disk"),
        (Annotated[str, text()], "a\x00b"),
        (SECRET, "two words"),
        (URL, "worker.example.com"),
        (URL, "ftp://worker.example.com"),
        (URL, "https://"),
        (URL, "https://user:pw@worker.example.com"),
        (URL, "https://worker.example.com?x=1"),
        (URL, "https://worker.example.com#top"),
        (URL, "https://worker.example.com:99999"),
        (URL, "https://worker.example.com:port"),
        (URL, "https://worker.example.com:0"),
        (URL, "https://worker example.com"),
        (URL, "https://[::1"),
        (URL, "https://worker.example.com/a b"),
        (Annotated[SecretStr, SERVER], "http://127.0.0.1"),
        (Annotated[SecretStr, SERVER], "redis://"),
        (Annotated[SecretStr, SERVER], "redis://host:0"),
        (Annotated[SecretStr, SERVER], "redis://host:99999"),
        (Several[Annotated[str, text(r"[a-z]+")]], "a,B"),
    ],
)
def test_a_bad_value_is_refused(annotation: Any, raw: str) -> None:
    """By pydantic, with one error and nothing else; what is allowed is said in words."""
    with pytest.raises(ValidationError):
        read(annotation, raw)
    assert kind_of(annotation).allowed


@pytest.mark.parametrize(
    "raw",
    [
        "redis://127.0.0.1:6379/0",
        "rediss://default:pw@eu1.upstash.io:6379",
        "postgresql:///qstreamd?host=/run/postgresql",
    ],
)
def test_addresses_of_servers_come_in_all_their_forms(raw: str) -> None:
    """TCP, TLS and local sockets."""
    kind = server_url("redis", "rediss", "postgresql")
    assert read(Annotated[SecretStr, kind], raw).get_secret_value() == raw


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
    assert SERVER.show(read(Annotated[SecretStr, SERVER], raw)) == shown


@pytest.mark.parametrize(
    ("annotation", "raw", "shown"), [(SECRET, "abc", "***"), (Several[SECRET], "abc,def", ["***"] * 2)]
)
def test_a_secret_is_shown_as_stars(annotation: Any, raw: str, shown: Any) -> None:
    """Alone and in lists."""
    kind = kind_of(annotation)
    assert kind.secret
    assert kind.show(read(annotation, raw)) == shown


def test_what_code_hands_in_is_taken_as_it_is() -> None:
    """Patterns are for texts; bounds are for everybody."""
    assert read(SECRET, SecretStr("two words")) == SecretStr("two words")
    assert read(SECONDS, 20) == 20.0
    with pytest.raises(ValidationError):
        read(SECONDS, -1)


@pytest.mark.parametrize(
    ("annotation", "allowed"),
    [
        (bool, "true or false"),
        (Literal["disk", "redis"], "disk or redis"),
        (WHOLE | None, "a whole number from 1 to 1000000000"),
        (Annotated[int | None, whole("tasks", most=5)], "a whole number of tasks from 1 to 5"),
        (Several[SECRET], "a text without spaces; several with commas"),
    ],
)
def test_what_is_allowed_follows_from_the_annotation(annotation: Any, allowed: str) -> None:
    """Where there is no kind, from the type alone."""
    assert kind_of(annotation).allowed == allowed


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
    kinds = (seconds(), whole("seconds"), whole("milliseconds"), whole("tasks"), text())
    assert [kind.unit for kind in kinds] == ["s", "s", "ms", "tasks", ""]
