"""Entries of the work streams as Redis returns them, read into deliveries; one that can't be read says why."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from daemon.domain.messages import CONTRACT_VERSION, TASK_ID, WorkEntry
from daemon.ports import Delivery, UnsupportedVersion

_decode_entry: Final = msgspec.json.Decoder(WorkEntry).decode


def read_entry(queue: str, stream: str, entry_id: bytes, fields: Any, bytes_max: int, *, redelivered: bool) -> Delivery:
    """The delivery of one entry."""
    raw = _raw(fields)
    entry, poison = _parse(raw, bytes_max)
    newer = _unsupported_version(raw) if entry is None and raw is not None else None
    return Delivery(queue, stream, entry_id.decode(), entry, poison, newer, redelivered)


def _raw(fields: Any) -> bytes | None:
    if isinstance(fields, list):  # scripts answer in RESP2 shape: a flat list
        fields = dict(zip(fields[::2], fields[1::2], strict=False))
    raw = (fields or {}).get(b"task")
    return raw if isinstance(raw, bytes) else None


def _parse(raw: bytes | None, bytes_max: int) -> tuple[WorkEntry | None, str]:
    """The entry, or why it can't be read; never its content."""
    if raw is None:
        return None, "the entry has no field `task`"
    if len(raw) > bytes_max:
        return None, f"the entry has {len(raw)} bytes; at most {bytes_max} are read"
    try:
        return _decode_entry(raw), ""
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return None, f"the entry can't be parsed: {str(error)[:160]}"


class _VersionedMessage(msgspec.Struct, rename="camel"):
    v: int
    task_id: str


class _VersionedEntry(msgspec.Struct, rename="camel"):
    message: _VersionedMessage
    parked_at: int = 0


_decode_version: Final = msgspec.json.Decoder(_VersionedEntry).decode


def _unsupported_version(raw: bytes) -> UnsupportedVersion | None:
    """Whether a newer release wrote it: then it is no poison, and a newer daemon will read it."""
    try:
        entry = _decode_version(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    known = entry.message.v <= CONTRACT_VERSION or not TASK_ID.fullmatch(entry.message.task_id)
    return None if known else UnsupportedVersion(entry.message.task_id, raw, entry.parked_at)
