"""How each sort of value is read from a text, checked and shown: numbers with a unit, words, addresses, secrets.

Every parser raises ValueError without words: the words of a mistake are made in `sources`, from `Kind.allowed`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from daemon.config.redis_url import deployment

MASK: Final = "***"

_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")
_WORDS_OF_TRUTH: Final = MappingProxyType(
    {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
)
_UNITS: Final = MappingProxyType({"seconds": "s", "milliseconds": "ms", "microseconds": "µs"})
_USERINFO: Final = re.compile(r"(?<=://)[^/@\s]*(?=@)")
_QUERY_PASSWORD: Final = re.compile(r"(?i)([?&][a-z_-]*(?:password|token|secret|key)=)([^&#]+)")


class SecretStr:
    """A value that shows itself only to `get_secret_value`; everything that prints it prints stars."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        """The value itself: for the library that needs it, never for a log or an error."""
        return self._value

    def __repr__(self) -> str:
        return f"SecretStr('{MASK}')"

    def __str__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretStr) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How one sort of value is read and shown. `parse` raises ValueError; `allowed` says in words what it takes."""

    parse: Callable[[str], Any]
    allowed: str
    unit: str = ""
    secret: bool = False
    show: Callable[[Any], Any] = lambda value: value


def seconds(*, least: float = 0.001, most: float = 7 * 86400) -> Kind:
    """A time in seconds, fractions allowed."""
    allowed = f"a number of seconds from {least:g} to {most:.0f}"
    return Kind(parse=lambda raw: _bounded(float(_matched(_NUMBER, raw)), least, most), allowed=allowed, unit="s")


def whole(of: str = "", *, least: int = 1, most: int = 1_000_000_000) -> Kind:
    """A whole number of something: `of` in words."""
    allowed = f"a whole number{' of ' if of else ''}{of} from {least} to {most}"
    unit = _UNITS.get(of, of)
    return Kind(parse=lambda raw: _bounded(int(_matched(_WHOLE, raw)), least, most), allowed=allowed, unit=unit)


def flag() -> Kind:
    """Yes or no."""
    return Kind(parse=lambda raw: _look_up(raw.lower(), _WORDS_OF_TRUTH), allowed="true or false")


def choice(*values: str) -> Kind:
    """One of a few words."""
    return Kind(parse=lambda raw: _look_up(raw, {value: value for value in values}), allowed=" or ".join(values))


def text(pattern: str = r"[^\x00]+", allowed: str = "any text") -> Kind:
    """A text that matches `pattern` as a whole."""
    return Kind(parse=lambda raw: _matched(pattern, raw), allowed=allowed)


def secret(pattern: str = r"[^\s\x00]+", allowed: str = "a text without spaces") -> Kind:
    """A text that is never shown."""
    return Kind(parse=lambda raw: SecretStr(_matched(pattern, raw)), allowed=allowed, secret=True, show=lambda _: MASK)


def web_url() -> Kind:
    """An http or https address without user, query or fragment; a slash at its end is dropped."""
    return Kind(parse=_web_url, allowed="an http:// or https:// URL without user, query or fragment")


def server_url(*schemes: str) -> Kind:
    """An address that may hold a password: shown without it."""
    allowed = f"a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    return Kind(parse=lambda raw: SecretStr(_server_url(raw, schemes)), allowed=allowed, secret=True, show=_show_url)


def redis_server() -> Kind:
    """An address in one of the forms of `redis_urls`: shown without its passwords."""
    allowed = (
        "redis://host:6379/0 (rediss, upstash, unix), redis+sentinel://host,host/service or redis+cluster://host,host"
    )
    return Kind(parse=_redis_server, allowed=allowed, secret=True, show=_show_url)


def several(kind: Kind) -> Kind:
    """Comma-separated values of `kind`; blanks around commas do not count."""

    def parse(raw: str) -> tuple[Any, ...]:
        return tuple(kind.parse(item.strip()) for item in raw.split(",") if item.strip())

    def show(values: tuple[Any, ...]) -> list[Any]:
        return [kind.show(value) for value in values]

    return Kind(parse=parse, allowed=f"{kind.allowed}; several with commas", secret=kind.secret, show=show)


def _bounded(number: Any, least: float, most: float) -> Any:
    if not least <= number <= most:
        raise ValueError
    return number


def _look_up(raw: str, values: Mapping[str, Any]) -> Any:
    if raw not in values:
        raise ValueError
    return values[raw]


def _matched(pattern: str | re.Pattern[str], raw: str) -> str:
    if not re.fullmatch(pattern, raw):
        raise ValueError
    return raw


def _web_url(raw: str) -> str:
    url = urlsplit(raw)
    port_is_valid = url.port is None or url.port > 0  # .port itself raises ValueError
    plain = not (url.username or url.password or "?" in raw or "#" in raw or re.search(r"\s", raw))
    if url.scheme not in ("http", "https") or not url.hostname or not port_is_valid or not plain:
        raise ValueError
    return raw.rstrip("/")


def _server_url(raw: str, schemes: tuple[str, ...]) -> str:
    url = urlsplit(raw)
    located = url.path if url.scheme == "unix" else (url.hostname or "host=" in url.query)
    if url.scheme not in schemes or not located or url.port == 0 or re.search(r"\s", raw):
        raise ValueError
    return raw


def _redis_server(raw: str) -> SecretStr:
    deployment(raw)
    return SecretStr(raw)


def _show_url(value: SecretStr) -> str:
    return _QUERY_PASSWORD.sub(rf"\1{MASK}", _USERINFO.sub(MASK, value.get_secret_value()))


def parts_of_secret(value: str) -> list[str]:
    """What of this value opens doors: the password of a URL (quoted or not), the key of `name:key`, else all of it."""
    if "://" in value:
        password = urlsplit(value).password or ""
        quoted = [password, *(match.group(2) for match in _QUERY_PASSWORD.finditer(value))]
        return list(dict.fromkeys(form for text in quoted if text for form in (text, unquote(text))))
    name, colon, key = value.partition(":")
    return [value, key] if colon and name and key else [value]
