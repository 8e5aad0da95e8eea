"""Stored events as those who follow a task get them: unparsed, on one line, with a cursor that can be compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from daemon.domain.events import EventType

START: Final = "0-0"
_ID: Final = re.compile(r"\d{1,20}(-\d{1,20})?")
_TYPE: Final = re.compile(rb"[a-z_]{1,32}")

Cursor = tuple[int, int]


class StoredEvent(NamedTuple):
    """One event as stored; `id` is "" for what is not in the stream (a gap, an end made from the row)."""

    id: str
    type: str
    data: bytes  #: a JSON object on one line
    terminal: bool = False
    at: Cursor = (0, 0)  #: `id` as numbers


class EventBatch:
    """Events of one task that came together. `wire` is for whoever encodes them: once for all viewers."""

    __slots__ = ("entries", "plain", "terminal", "wire")

    def __init__(self, entries: Sequence[StoredEvent]) -> None:
        self.entries = entries
        self.terminal = entries[-1].terminal
        #: stored ones, and none after the end: what nearly every batch is
        self.plain = all(entry.id for entry in entries) and not any(entry.terminal for entry in entries[:-1])
        self.wire: bytes | None = None


class _Fate(msgspec.Struct):
    retryable: bool = False


_fate: Final = msgspec.json.Decoder(_Fate).decode


def is_cursor(text: str) -> bool:
    """Whether `text` can be a stream id; `ms` alone counts as `ms-0`."""
    return _ID.fullmatch(text) is not None


def cursor_of(entry_id: str) -> Cursor:
    """A stream id as numbers, to be compared."""
    ms, _, seq = entry_id.partition("-")
    return int(ms), int(seq or 0)


def parse(entries: Iterable[Any]) -> list[StoredEvent]:
    """Stored entries as `StoredEvent`; what a stranger wrote in another form is passed over."""
    return [entry for entry_id, fields in entries if (entry := _parsed(entry_id, fields or {})) is not None]


def _parsed(entry_id: bytes, fields: dict[bytes, bytes]) -> StoredEvent | None:
    kind, data = fields.get(b"type"), fields.get(b"data")
    if kind is None or data is None or not _TYPE.fullmatch(kind):
        return None
    try:
        if b"\n" in data or b"\r" in data:  # pretty-printed by a producer; a frame is made of lines
            data = msgspec.json.encode(msgspec.json.decode(data, type=dict[str, Any]))
        terminal = kind == EventType.DONE.encode() or (kind == EventType.ERROR.encode() and not _fate(data).retryable)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    name = entry_id.decode()
    return StoredEvent(name, kind.decode(), data, terminal, cursor_of(name))


def text_of(cursor: Cursor) -> str:
    """The cursor as a stream id."""
    return f"{cursor[0]}-{cursor[1]}"
