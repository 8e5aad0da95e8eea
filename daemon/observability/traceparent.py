"""The W3C header `traceparent`, read without any SDK: which trace a call belongs to, and which span made it."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

HEADER: Final = "traceparent"
_FORM: Final = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<span>[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)


class TraceParent(NamedTuple):
    """Where a call came from."""

    trace_id: str
    span_id: str
    sampled: bool
    text: str  #: as carried on: version 00, whatever version came in


def parse(header: str | None) -> TraceParent | None:
    """The header's meaning; None when there is none or it is not well-formed, which the standard says to ignore."""
    found = _FORM.fullmatch(header.strip()) if header and len(header) <= 512 else None
    if found is None or (found["version"] == "00" and found["more"]):
        return None
    sampled = bool(int(found["flags"], 16) & 1)
    trace, span = found["trace"], found["span"]
    return TraceParent(trace, span, sampled, f"00-{trace}-{span}-{sampled:02x}")
