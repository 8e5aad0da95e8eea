"""A task's events as its viewer gets them, for an operator's terminal."""

from __future__ import annotations

from collections.abc import AsyncIterator

from daemon.admin.connections import Connections
from daemon.domain.errors import QstreamdError
from daemon.domain.events import Event
from daemon.domain.states import TERMINAL
from daemon.events.log import EventLog
from daemon.redis_client import keys
from daemon.redis_client.connection import connect_blocking, translated

LOOK_S = 15.0  #: so often a task without events is looked for in Postgres


class EventsGone(QstreamdError):
    """The task has ended and its events have expired; its row is in Postgres."""


async def follow(at: Connections, task_id: str, after: str, *, wait: bool) -> AsyncIterator[Event]:
    """Events after the id `after`, until the terminal one; without `wait` only those that are there.

    Waits for a task that nobody knows yet. Raises `EventsGone`, `RedisAway`.
    """
    events, key = EventLog(at.scripts, at.settings.events, at.clock), keys.events(task_id)
    blocking = connect_blocking(at.settings.redis, name="qstreamd-tail")
    block_ms = round(min(LOOK_S, at.settings.redis.block_s) * 1000)
    try:
        while True:
            page = await events.read(task_id, after)
            for event in page:
                after = event.id
                yield event
                if event.terminal:
                    return
            if not page:
                await _require_followable(at, task_id)
                if not wait:
                    return
                with translated():
                    await blocking.xread({key: after}, count=1, block=block_ms)
    finally:
        await blocking.aclose()


async def _require_followable(at: Connections, task_id: str) -> None:
    """Raises `EventsGone` when nothing comes because the end is long past."""
    with translated():
        there = await at.redis.exists(keys.events(task_id))
    if there or at.no_store:
        return
    found = await at.records.row(task_id)
    if found is not None and found[0].state in TERMINAL:
        raise EventsGone(f"{task_id} has ended as {found[0].state}, and its events have expired")
