"""JSON on its way into and out of Postgres: jsonb holds neither NUL nor half a surrogate pair, models write both.

An answer that was paid for is never lost to one bad character: what Postgres can't hold is dropped (NUL) or replaced
(surrogates, by U+FFFD), and nothing else changes.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

_ESCAPED_NUL: Final = b"\\u0000"
_encoder: Final = msgspec.json.Encoder()


def storable_text(text: str) -> str:
    """`text` as Postgres can hold it; the same object when nothing has to change."""
    if "\x00" in text:
        text = text.replace("\x00", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        # A pair of halves becomes the one character it meant; a half alone becomes U+FFFD.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def storable(value: Any) -> Any:
    """`value` (JSON types) with every text in it made storable, keys too."""
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, dict):
        return {storable_text(str(key)): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value


def encode(value: Any) -> bytes:
    """JSON bytes that jsonb takes. Walks the value only when there is something to repair, which is nearly never."""
    try:
        encoded = _encoder.encode(value)
        if _ESCAPED_NUL not in encoded:
            return encoded
    except UnicodeEncodeError:
        pass
    return _encoder.encode(storable(msgspec.to_builtins(value)))
