"""The scripts of events, each as a function of its name that builds its call.

Parameters are KEYS and ARGV in the order of the contract at the head of the script, which also says what each one means
and what the reply is (`tests/rules/test_lua.py` compares the two).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from daemon.redis_client.keys import GROUP
from daemon.redis_client.scripts import Call, load_scripts

SCRIPTS: Final = load_scripts("events")


class EventParts(NamedTuple):
    """One event; its JSON is `head`, the attempt, `,"seq":`, the number, `tail`."""

    type: str
    terminal: int  #: 1 or 0
    head: bytes
    tail: bytes


def append(
    *,
    stream: str,
    state: str,
    nonce: str,
    fence: str,
    owner: str,
    ttl_s: int,
    ended_ttl_s: int,
    queued: bytes,
    origin: bytes,
    events: Sequence[EventParts],
) -> Call:
    """Appends events of one attempt to a task's stream."""
    return Call(
        SCRIPTS["append"],
        (stream, state),
        (nonce, fence, owner, ttl_s, ended_ttl_s, queued, origin, *(part for event in events for part in event)),
    )


def cancel(*, state: str, ttl_s: int) -> Call:
    """Marks a task as to be cancelled."""
    return Call(SCRIPTS["cancel"], (state,), (ttl_s,))


def withdraw(
    *,
    retry: str,
    held: str,
    seen: str,
    tasks: str,
    reservation: str,
    waiting: str,
    counter: str,
    blobs: Sequence[str],
    task_id: str,
    group: str = GROUP,
    seen_ttl_s: int,
) -> Call:
    """Takes a task that has ended before it ran out of its queue."""
    return Call(
        SCRIPTS["withdraw"],
        (retry, held, seen, tasks, reservation, waiting, counter, *blobs),
        (task_id, group, seen_ttl_s),
    )
