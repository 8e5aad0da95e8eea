"""Kinds of values: what is said of each to people, and the checks that pydantic does not have.

A `Kind` stands beside the type in `Annotated[…]`. pydantic converts and bounds numbers, words and lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin
from urllib.parse import unquote, urlsplit

from annotated_types import Ge, GroupedMetadata, Le
from pydantic import BeforeValidator
from pydantic import SecretStr as SecretStr

MASK: Final = "***"
_UNITS: Final = {"seconds": "s", "milliseconds": "ms", "microseconds": "µs"}
_USERINFO: Final = re.compile(r"(?<=://)[^/@\s]*(?=@)")
_QUERY_PASSWORD: Final = re.compile(r"(?i)([?&][a-z_-]*(?:password|token|secret|key)=)([^&#]+)")
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(GroupedMetadata):
    """What one kind of value takes, in words, and how it is shown; pydantic applies the `checks`."""

    allowed: str
    checks: tuple[object, ...] = ()
    unit: str = ""
    secret: bool = False
    show: Callable[[Any], Any] = lambda value: value

    def __iter__(self) -> Iterator[object]:
        return iter(self.checks)


def kind_of(annotation: Any, metadata: tuple[object, ...] = ()) -> Kind:
    """The `Kind` in an annotation; that of a bool, of a Literal and of `Several` follows from the type."""
    if found := next((item for item in metadata if isinstance(item, Kind)), None):
        return found
    origin, inner = get_origin(annotation), get_args(annotation)
    if not inner:
        return Kind(allowed="true or false")
    if origin is Literal:
        return Kind(allowed=" or ".join(inner))
    kind = kind_of(inner[0], inner[1:] if origin is Annotated else ())
    if origin is not tuple:
        return kind
    return replace(kind, allowed=f"{kind.allowed}; several with commas", show=lambda them: [kind.show(v) for v in them])


def _reading(pattern: str, read: Callable[[str], object] = str) -> BeforeValidator:
    """Refuses a text that does not match as a whole, then reads it; what code hands in has its type already."""

    def check(value: object) -> object:
        if isinstance(value, str) and not re.fullmatch(pattern, value):
            raise ValueError
        return read(value) if isinstance(value, str) else value

    return BeforeValidator(check)


#: comma-separated values; blanks around commas do not count
Several = Annotated[
    tuple[_Item, ...], _reading(r"(?s).*", lambda raw: [p.strip() for p in raw.split(",") if p.strip()])
]


def seconds(*, least: float = 0.001, most: float = 7 * 86400) -> Kind:
    """A time in seconds, fractions allowed; no exponents."""
    plain = _reading(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)")
    allowed = f"a number of seconds from {least:g} to {most:.0f}"
    return Kind(allowed=allowed, checks=(plain, Ge(least), Le(most)), unit="s")


def whole(of: str = "", *, least: int = 1, most: int = 1_000_000_000) -> Kind:
    """A whole number of something: `of` in words."""
    plain = _reading(r"[+-]?[0-9]{1,18}")
    allowed = f"a whole number{' of ' if of else ''}{of} from {least} to {most}"
    return Kind(allowed=allowed, checks=(plain, Ge(least), Le(most)), unit=_UNITS.get(of, of))


def text(pattern: str = r"[^\x00]+", allowed: str = "any text") -> Kind:
    """A text that matches `pattern` as a whole."""
    return Kind(allowed=allowed, checks=(_reading(pattern),))


def secret(pattern: str = r"[^\s\x00]+", allowed: str = "a text without spaces") -> Kind:
    """A text that is never shown."""
    return replace(text(pattern, allowed), secret=True, show=lambda _: MASK)


def _located(raw: str) -> str:
    url = urlsplit(raw)
    if not (url.hostname or "host=" in url.query) or url.port == 0:  # .port itself raises ValueError, too
        raise ValueError
    return raw


def web_url() -> Kind:
    """An http or https address without user, query or fragment; a slash at its end is dropped."""
    check = _reading(r"https?://[^/?#@\s]+(/[^?#\s]*)?", lambda raw: _located(raw).rstrip("/"))
    return Kind(allowed="an http:// or https:// URL without user, query or fragment", checks=(check,))


def server_url(*schemes: str, allowed: str = "", check: Callable[[str], object] = _located) -> Kind:
    """An address that may hold a password: shown without it. `check` raises ValueError."""
    words = allowed or f"a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    read = _reading(rf"({'|'.join(map(re.escape, schemes))})://\S+", lambda raw: (check(raw), raw)[1])
    return Kind(allowed=words, checks=(read,), secret=True, show=_show_url)


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
