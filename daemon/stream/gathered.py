"""Script calls of all tasks of a process in shared flushes: acks, events and places in one pipeline.

The calls of one `run` stay together and in order, so the law holds as it does without company. A flush that fails fails
for each, and each repeats its own: every script of ours may be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis

from daemon.gathering import Gathering
from daemon.stream.connection import Call, Scripts

#: flushes at once: a far Redis is kept busy, and one slow reply does not hold everyone
_LANES: Final = 4
#: `run`s in one flush: its reply takes the server a few milliseconds at most
_RUNS_MAX: Final = 128


class GatheredScripts(Scripts):
    """`Scripts` that flush together."""

    def __init__(self, client: Redis) -> None:
        super().__init__(client)
        self._gathering: Gathering[Sequence[Call], list[Any]] = Gathering(self._run_all, lanes=_LANES, most=_RUNS_MAX)

    async def run_each(self, calls: Sequence[Call]) -> list[Any]:
        """See `Scripts.run_each`."""
        return await self._gathering.ask(calls)

    async def _run_all(self, runs: list[Sequence[Call]]) -> list[list[Any]]:
        replies = iter(await super().run_each([call for calls in runs for call in calls]))
        return [[next(replies) for _ in calls] for calls in runs]
