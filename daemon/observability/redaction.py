"""What of a log line may be printed: no content, no secret, nothing that is not a plain value.

Removed whatever the caller hands in: by name (`FORBIDDEN`), by value (configured secrets, user and password of URLs,
keys in queries), by type (a repr may hold a prompt, so only plain values are printed) and by length (ids and reasons
are short, content is not). Pure: called by `logging` alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from functools import lru_cache
from types import TracebackType
from typing import Any, Final

from daemon.domain.errors import QstreamdError

VALUE_CHARS_MAX: Final = 256  #: longer values are cut: ids and reasons are short, content is not
ITEMS_MAX: Final = 32  #: of a list or mapping
DEPTH_MAX: Final = 3
FRAMES_MAX: Final = 24  #: innermost first to go in; the place that raised matters most
SECRET_CHARS_MIN: Final = 9  #: shorter ones are words as well (`postgres`): masking them would blind the log
MASK: Final = "***"

#: names (lower case, `_` for `-` and camel humps) whose value is never logged; `dropped` says that one was there
FORBIDDEN: Final = frozenset(
    {
        "prompt", "system", "system_instruction", "instructions", "content", "contents", "delta", "text", "output",
        "answer", "completion", "response", "body", "raw_body", "message", "messages", "message_body", "payload",
        "data", "variables", "image", "images", "input", "result", "signature", "upstash_signature", "authorization",
        "cookie", "set_cookie", "headers", "token", "key", "api_key", "secret", "password", "passphrase", "dsn",
        "credentials",
    }
)  # fmt: skip
#: … or that end in one of these words
FORBIDDEN_SUFFIXES: Final = ("_prompt", "_token", "_secret", "_password", "_signature", "_api_key", "_signing_key")

_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_USERINFO: Final = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_QUERY_SECRET: Final = re.compile(r"(?i)([?&][a-z_-]*(?:token|key|secret|signature|password)=)[^&\s#]+")


@lru_cache(maxsize=1024)
def forbidden(name: str) -> bool:
    """Whether a field of this name is never logged."""
    plain = _HUMP.sub("_", name).lower().replace("-", "_")
    return plain in FORBIDDEN or plain.endswith(FORBIDDEN_SUFFIXES)


class Redaction:
    """Knows the secrets of this process. Every method may be handed anything."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({s for s in secrets if len(s) >= SECRET_CHARS_MIN}, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, known))) if known else None

    def fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What of these fields may be printed; `dropped` names those that may not, at any depth."""
        dropped: set[str] = set()
        clean = dict(self._items(fields, 0, dropped))
        if dropped:
            clean["dropped"] = sorted(dropped)
        return clean

    def text(self, text: str) -> str:
        """`text` without secrets, cut to what an id or a reason needs."""
        text = _QUERY_SECRET.sub(rf"\1{MASK}", _USERINFO.sub(MASK, text))
        if self._secrets is not None:
            text = self._secrets.sub(MASK, text)
        if len(text) > VALUE_CHARS_MAX:
            text = f"{text[:VALUE_CHARS_MAX]}… ({len(text)} characters)"
        return text.encode("utf-8", "replace").decode()  # a lone surrogate would break the line

    def exception(self, error: BaseException, depth: int = 0) -> dict[str, Any]:
        """Type and frames of an exception and its causes: no words of strangers, no source line, no local value."""
        described: dict[str, Any] = {
            "type": self._headline(error),
            "frames": list(_frames(error.__traceback__))[-FRAMES_MAX:],
        }
        if depth >= DEPTH_MAX:
            return described
        if isinstance(error, BaseExceptionGroup):
            described["errors"] = [self.exception(inner, depth + 1) for inner in error.exceptions[:ITEMS_MAX]]
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is not None:
            described["cause"] = self.exception(cause, depth + 1)
        return described

    def _items(self, items: Mapping[Any, Any], depth: int, dropped: set[str]) -> Iterator[tuple[str, Any]]:
        for at, (key, value) in enumerate(items.items()):
            name = str(key)[:64]
            if at >= ITEMS_MAX and depth:
                return
            if forbidden(name):
                dropped.add(name)
            else:
                yield name, self._value(value, depth, dropped)

    def _value(self, value: object, depth: int, dropped: set[str]) -> object:
        if isinstance(value, Enum):
            value = value.value
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, BaseException):
            return self._headline(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return f"<{len(value)} bytes>"
        if depth < DEPTH_MAX and isinstance(value, Mapping):
            return dict(self._items(value, depth + 1, dropped))
        if depth < DEPTH_MAX and isinstance(value, list | tuple | set | frozenset) and not hasattr(value, "_fields"):
            return [self._value(item, depth + 1, dropped) for item in list(value)[:ITEMS_MAX]]
        return f"<{type(value).__name__}>"

    def _headline(self, error: BaseException) -> str:
        """The type, with words only where they are ours (free of content by contract) or the system's."""
        name = type(error).__name__
        if isinstance(error, QstreamdError):
            return self.text(f"{name}: {error}")
        if isinstance(error, OSError) and error.errno is not None:
            return f"{name}: {os.strerror(error.errno) if error.errno > 0 else error.errno}"
        return name


def _frames(traceback: TracebackType | None) -> Iterator[str]:
    while traceback is not None:
        frame = traceback.tb_frame
        yield f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
