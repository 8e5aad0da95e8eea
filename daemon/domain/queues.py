"""What a queue is, and the six that there are without a services file (protocol 1). Everything is immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

QUEUE_PATTERN: Final = r"^[a-z0-9][a-z0-9_.-]{0,63}$"


class Tier(StrEnum):
    """Who pays; decides limits and models."""

    PAID = "paid"
    FREE = "free"


class Mode(StrEnum):
    """`stream`: the user watches tokens. `batch`: only the result is delivered."""

    STREAM = "stream"
    BATCH = "batch"


def is_paused(field: bytes | None) -> bool:
    """What the field `paused` of a control hash says, however it is spelled; `is_paused` in Lua says the same."""
    return (field or b"").lower() not in _NOT_PAUSED


_NOT_PAUSED: Final = frozenset({b"", b"0", b"false", b"no"})


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """One queue: its tier and mode decide what may be sent to it; `parallelism` is for one process."""

    name: str
    tier: Tier
    mode: Mode
    parallelism: int
    max_size: int | None = None  #: None: QUEUE_MAX_SIZE applies
    vision: bool = False
    gives_way_s: float = 0.0  #: at limiters shared with other queues its tasks wait as if accepted so much later


DEFAULT_QUEUES: Final[Mapping[str, QueueSpec]] = MappingProxyType(
    {
        q.name: q
        for q in (
            QueueSpec("q_paid_stream", Tier.PAID, Mode.STREAM, 20),
            QueueSpec("q_free_stream", Tier.FREE, Mode.STREAM, 5),
            QueueSpec("q_paid_batch", Tier.PAID, Mode.BATCH, 10),
            QueueSpec("q_free_batch", Tier.FREE, Mode.BATCH, 5),
            QueueSpec("q_paid_vision", Tier.PAID, Mode.BATCH, 5, vision=True),
            QueueSpec("q_free_vision", Tier.FREE, Mode.BATCH, 2, vision=True),
        )
    }
)
