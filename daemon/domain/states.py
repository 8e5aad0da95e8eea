"""The states of a task in Postgres, and which of them may follow which (protocol 9)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class State(StrEnum):
    """Where a task stands in Postgres."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


TERMINAL: Final = frozenset({State.DONE, State.FAILED, State.CANCELLED, State.EXPIRED})
TRANSITIONS: Final[Mapping[State, frozenset[State]]] = MappingProxyType(
    {
        State.QUEUED: frozenset({State.RUNNING, State.FAILED, State.CANCELLED, State.EXPIRED}),
        State.RUNNING: frozenset({State.RETRYING, State.QUEUED, State.RUNNING, *TERMINAL}),
        State.RETRYING: frozenset({State.RUNNING, State.FAILED, State.CANCELLED, State.EXPIRED}),
        State.DONE: frozenset(),
        State.FAILED: frozenset({State.QUEUED}),  # only `dlq replay`
        State.CANCELLED: frozenset(),
        State.EXPIRED: frozenset({State.QUEUED}),  # only `dlq replay`
    }
)
