"""The Lua scripts of all rooms by their name alone: no two have the same one."""

from __future__ import annotations

from daemon.events.scripts import SCRIPTS as EVENTS
from daemon.limiter.scripts import SCRIPTS as LIMITER
from daemon.queues.scripts import SCRIPTS as QUEUES
from daemon.redis_client.scripts import Script


def script(name: str) -> Script:
    """The script as its room loads it."""
    return table(name)[name]


def table(name: str) -> dict[str, Script]:
    """The room's table that holds it: who puts another one there breaks it for this process."""
    return next(scripts for scripts in (QUEUES, LIMITER, EVENTS) if name in scripts)
